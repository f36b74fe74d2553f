"""Kills encoding at random moments, resumes until it is finished, and compares with a run that was never stopped.

    python benchmarks/kill_encode.py [--kills 50] [--engine local ray] [--images 400]

Each line is one story: a new directory, ``kill -9`` at a random moment, then the same run again (killed again, one time in
three) until it ends. With ``local`` the killed process is the one that runs the model, half of the time with its workers,
half of the time leaving them behind; with ``ray`` it is the driver or one of the two actors. The tree's hash must be that of
the uninterrupted run. Ends with 1 if any story ends otherwise.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vistok import shards
from vistok.backbones import ConvEncoder, Linear
from vistok.data import Procedural
from vistok.quantizers import VQ
from vistok.shards import Engine, LocalEngine
from vistok.tokenizer import Tokenizer

OPTIONS: dict[str, Any] = {"batch_size": 8, "shard_size": 20, "progress": False}
SIZE = 32
ACTORS = 2
# processes are forked from a server that has imported everything and has no threads, no cluster and no model
PROCESSES = multiprocessing.get_context("forkserver")


def tokenizer() -> Tokenizer:
    """The demo's, smaller, with random weights."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    encoder = ConvEncoder(dim=32, channels=16, multipliers=(1, 2), num_res_blocks=1, patch=4)
    return Tokenizer(encoder, VQ(256, 8), None, Linear(32, 8), Linear(8, 32)).eval()


def encode(out: str, engine: str, images: int, address: str) -> None:
    """The run that is killed."""
    os.setsid()
    os.environ.update(RAY_LOG_TO_STDERR="0", RAY_AUTH_MODE="disabled")
    chosen: Engine = LocalEngine(2)
    if engine == "ray":
        from vistok.shards.engines.ray import RayEngine

        chosen = RayEngine(address=address, num_actors=ACTORS)
    shards.encode(tokenizer(), Procedural(images, SIZE), out, engine=chosen, **OPTIONS)


def start(out: Path, engine: str, images: int, address: str) -> BaseProcess:
    """Starts the run."""
    process = PROCESSES.Process(target=encode, args=(str(out), engine, images, address))
    process.start()
    return process


def tree_hash(out: Path) -> str:
    """One hash of all names and bytes but of what is soft (versions) and of locks."""
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and name != "made-with.jsonl" and not name.startswith(".vistok-lock"):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def actor_pids() -> list[int]:
    """Processes that are actors of ours: below this process, through the cluster that it has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_text().startswith("ray::ShardActor"):
                found.append(int(folder.name))
    return [pid for pid in found if os.getpid() in ancestors(pid)]


def ancestors(pid: int) -> list[int]:
    """Parents of a process up to the first."""
    found: list[int] = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        while pid > 1:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            pid = next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
            found.append(pid)
    return found


def kill(process: BaseProcess, engine: str, dice: random.Random) -> str:
    """Kills something of a run; returns what, or nothing if the run had ended."""
    pid = process.pid
    if pid is None or not process.is_alive():
        return ""
    actors = actor_pids() if engine == "ray" else []
    if actors and dice.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(actors), signal.SIGKILL)
        return "an actor"
    if engine == "local" and dice.random() < 0.5:
        os.killpg(pid, signal.SIGKILL)
        return "all processes"
    os.kill(pid, signal.SIGKILL)
    return "the driver" if engine == "ray" else "the model's process"


def wait_for_shard(process: BaseProcess, out: Path) -> bool:
    """Waits until a run has committed a shard more than it found; False if it ended before."""
    before = len(list(out.glob("shard-*.json")))
    while process.is_alive():
        if len(list(out.glob("shard-*.json"))) > before:
            return True
        time.sleep(0.005)
    return False


def story(number: int, engine: str, images: int, times: tuple[float, float], address: str, want: str) -> bool:
    """One directory from its first run to its last; prints its line."""
    dice, share = random.Random(f"{engine} {number}"), 1.0
    with tempfile.TemporaryDirectory(prefix="vistok-kill-") as folder:
        out, killed = Path(folder) / "out", []
        while True:
            process = start(out, engine, images, address)
            if not killed or dice.random() < 1 / 3:
                # a third before the first shard, the others after it
                early = dice.random() < 1 / 3
                moment = share * dice.uniform(0, times[0] if early else times[1])
                if early or wait_for_shard(process, out):
                    process.join(moment)
                kept = len(list(out.glob("shard-*.json")))
                when = "after the start" if early else "after the first shard"
                victim = kill(process, engine, dice)
                if victim:
                    killed.append(f"{victim} {moment:.2f} s {when}, {kept} shards kept")
                elif not killed:
                    # it had ended: over again, and sooner
                    process.join()
                    shutil.rmtree(out)
                    share *= 0.7
                    continue
            process.join()
            if process.exitcode == 0:
                break
            if process.exitcode != -signal.SIGKILL:
                killed.append(f"ended with {process.exitcode}")
                break
        same = tree_hash(out) == want and shards.verify(out).ok
    told = "; then ".join(killed)
    print(f"{number + 1:3} {engine:5} {'same' if same else 'OTHER'} {want[:12]}  {told}", flush=True)
    return same


@contextlib.contextmanager
def cluster(engine: str) -> Iterator[str]:
    """One Ray cluster for all runs, of this process; its address."""
    if engine != "ray":
        yield ""
        return
    import ray

    # recent versions would ask for a token that processes forked before this do not have
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=ACTORS, include_dashboard=False, log_to_driver=False)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def main() -> int:
    """Tells the stories."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--engine", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--images", type=int, default=400)
    arguments = parser.parse_args()
    PROCESSES.set_forkserver_preload(["vistok.shards", "vistok.data", "vistok.tokenizer"])
    folder = Path(tempfile.mkdtemp(prefix="vistok-kill-"))
    wrong = 0
    try:
        shards.encode(tokenizer(), Procedural(arguments.images, SIZE), folder / "whole", **OPTIONS)
        want = tree_hash(folder / "whole")
        print(f"uninterrupted, one process: {want}")
        for engine in arguments.engine:
            with cluster(engine) as address:
                warm = PROCESSES.Process(target=tokenizer)  # the server's imports take seconds, once
                warm.start()
                warm.join()
                begin = time.monotonic()
                whole = start(folder / engine, engine, arguments.images, address)
                wait_for_shard(whole, folder / engine)
                first = time.monotonic() - begin
                whole.join()
                rest = time.monotonic() - begin - first
                same = whole.exitcode == 0 and tree_hash(folder / engine) == want
                print(
                    f"uninterrupted, {engine}: {'same' if same else 'OTHER'}, {first:.1f} s to the first shard and "
                    f"{rest:.1f} s for the others",
                    flush=True,
                )
                wrong += not same
                for number in range(arguments.kills):
                    wrong += not story(number, engine, arguments.images, (first, rest), address, want)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{wrong} of {len(arguments.engine) * (arguments.kills + 1)} ended with another tree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
