"""How fast tokens come back as training batches: vistok's shards, one .npy an image, and plain webdataset.

Everybody reads the same samples in one process, in batches of one size, from files that were just written and so lie in
memory: what is measured is the work for a sample, not the disk. Shuffled access is a random permutation where a reader
can do that, and webdataset's shuffled shards and buffer where it cannot.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vistok.bench.measure import seconds
from vistok.bench.report import commit, machine, today
from vistok.errors import VistokError
from vistok.shards import ShardDataset, collate
from vistok.shards.commit import replacing, write_file
from vistok.shards.container import Origin, Sample, container
from vistok.shards.directory import describe
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.plan import Plan
from vistok.shards.sidecar import Sidecar, shard_name, sidecar_path
from vistok.spec import StreamSpec, TokenizerSpec

CONTAINERS = ("arrow", "arrow-packed", "tar")
NUM_TOKENS, NUM_CODES, KEY_CHARACTERS = 256, 16384, 20
SHUFFLE_BUFFER = 1000


@dataclass(frozen=True)
class ReadRow:
    """One reader in one kind of access.

    Args:
        access: ``shuffled`` or ``streaming``.
        samples_per_s: Median over the repeats.
        bytes_per_sample: Of the files as they are.
        over_payload: The same over tokens and keys alone: two bytes a token or, packed, ceil(log2 K) bits.
        write_samples_per_s: How fast the files were written, once.
    """

    access: str
    reader: str
    samples_per_s: float
    bytes_per_sample: float
    over_payload: float
    write_samples_per_s: float
    num_samples: int
    batch_size: int
    repeats: int
    device: str
    threads: int
    torch: str
    vistok: str
    commit: str
    day: str


@dataclass(frozen=True)
class Setting:
    """How much to read.

    Args:
        num_samples: Of 256 tokens each, with keys of 20 characters.
        shard_size: Samples of one shard.
        batch_size: Samples of one batch.
        repeats: Timed passes; in each, every reader runs once, so that all see the same noise.
    """

    num_samples: int = 20_000
    shard_size: int = 1000
    batch_size: int = 256
    repeats: int = 5


QUICK = Setting(num_samples=600, shard_size=100, batch_size=64, repeats=1)

Batches = Callable[[], Iterator[Tensor]]


def run(setting: Setting = Setting(), folder: Path | None = None) -> list[ReadRow]:
    """Writes the samples, checks that every reader gives all of them, and times each.

    Args:
        setting: How much.
        folder: Where to write; a temporary folder if None.

    Raises:
        VistokError: a reader gives other tokens than were written.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        tokens = np.random.default_rng(0).integers(0, NUM_CODES, (setting.num_samples, NUM_TOKENS, 1))
        tokens = tokens.astype(np.uint16)
        written = {
            name: seconds(partial(_write, place / name, name, tokens, setting), "cpu") for name in CONTAINERS
        }
        written["npy"] = seconds(partial(_write_npy, place / "npy", tokens), "cpu")
        readers = _readers(place, setting)
        total = int(tokens.sum(dtype=np.int64))
        for (access, name), batches in readers.items():
            found = list(batches())
            if sum(map(len, found)) != len(tokens) or sum(int(batch.sum()) for batch in found) != total:
                raise VistokError(f"{name} does not give the samples that were written, {access}")
            if {batch.dtype for batch in found} != {torch.int64} or found[0].shape[1:] != tokens.shape[1:]:
                raise VistokError(f"{name} gives {found[0].dtype} {tuple(found[0].shape)}, {access}")
        times: dict[tuple[str, str], list[float]] = {key: [] for key in readers}
        for _ in range(setting.repeats):
            for key, batches in readers.items():
                times[key].append(seconds(partial(_drain, batches), "cpu"))
        return [_row(key, statistics.median(found), written, place, setting) for key, found in times.items()]


def write_csv(rows: Sequence[ReadRow], path: Path) -> None:
    """Writes a CSV file with one line per row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ReadRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[ReadRow]) -> str:
    """The rows for a terminal: speed, and how many times that of one .npy an image and of plain webdataset."""
    lines = []
    for access in dict.fromkeys(row.access for row in rows):
        own = [row for row in rows if row.access == access]
        speed = {row.reader: row.samples_per_s for row in own}
        lines.append(
            f"{access}, {own[0].num_samples} samples of {NUM_TOKENS} tokens, batches of {own[0].batch_size}"
        )
        lines.append(f"  {'':<20} {'samples/s':>12} {'x npy':>7} {'x webdataset':>13}")
        for row in own:
            times = (row.samples_per_s / speed[name] for name in ("npy", "webdataset"))
            lines.append(
                f"  {row.reader:<20} {row.samples_per_s:>12,.0f} {next(times):>7.1f} {next(times):>13.1f}"
            )
        lines.append("")
    lines.append(f"on disk, keys of {KEY_CHARACTERS} characters included")
    lines.append(f"  {'':<20} {'bytes/sample':>12} {'x tokens and keys':>18} {'written/s':>10}")
    for row in {row.reader: row for row in rows if row.reader != "webdataset"}.values():
        lines.append(
            f"  {row.reader:<20} {row.bytes_per_sample:>12,.1f} {row.over_payload:>18.3f} {row.write_samples_per_s:>10,.0f}"
        )
    return "\n".join(lines)


def write_shards(
    out: Path, name: str, samples: Sequence[Sample], spec: TokenizerSpec, shard_size: int
) -> None:
    """A directory of token shards as ``encode`` leaves it but for the index, from samples that are there already."""
    plan = Plan.of([str(sample.meta["key"]) for sample in samples], shard_size)
    box = container(name)
    marks = Fingerprint(
        {"container": name, "plan.num_samples": plan.num_samples, "plan.shard_size": shard_size,
         "plan.keys_sha256": plan.keys_hash, "weights_hash": spec.weights_hash}
    )  # fmt: skip
    out.mkdir()
    describe(out, plan, spec, marks)
    for shard in range(plan.num_shards):
        numbers = plan.numbers(shard)
        kept = samples[numbers.start : numbers.stop]
        with replacing(out / shard_name(shard, box.suffix)) as file:
            box.write(file, kept, Origin(marks.sha256, spec))
        sidecar = Sidecar(
            file=shard_name(shard, box.suffix),
            n_in=len(kept),
            n_out=len(kept),
            skipped={},
            num_tokens=sum(len(array) for sample in kept for array in sample.arrays.values()),
            bytes=file.size,
            sha256=file.sha256,
            fingerprint=marks.sha256,
        )
        write_file(sidecar_path(out, shard), sidecar.to_json())


def _write(out: Path, name: str, tokens: NDArray[Any], setting: Setting) -> None:
    side = int(NUM_TOKENS**0.5)
    samples = [
        Sample(i, {"pixel": array}, {"key": _key(i), "size": [256, 256], "grid": {"pixel": [side, side]}})
        for i, array in enumerate(tokens)
    ]
    spec = TokenizerSpec("bench", "discrete", (StreamSpec(codebook_size=NUM_CODES, factor=256 // side),))
    write_shards(out, name, samples, spec, setting.shard_size)


def _write_npy(out: Path, tokens: NDArray[Any]) -> None:
    out.mkdir()
    for i, array in enumerate(tokens):
        np.save(out / f"{_key(i)}.npy", array)


def _key(number: int) -> str:
    return f"{number:0{KEY_CHARACTERS}d}"


class _Files(Dataset[Tensor]):
    """One .npy file an image."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.load(self._paths[index]).astype(np.int64))


def _readers(place: Path, setting: Setting) -> dict[tuple[str, str], Batches]:
    """By access and name of the reader; each call is a pass."""
    readers: dict[tuple[str, str], Batches] = {}
    files, size = _Files(place / "npy"), setting.batch_size
    shards = {name: ShardDataset(place / name) for name in CONTAINERS}
    for shuffled in (True, False):
        access = "shuffled" if shuffled else "streaming"
        for name, tokens in shards.items():
            readers[access, name] = _loading(tokens, size) if shuffled else _streaming(tokens, size)
        readers[access, "npy"] = _files(files, size, shuffled)
        readers[access, "webdataset"] = _webdataset(place / "tar", setting, shuffled)
    return readers


def _drain(batches: Batches) -> None:
    for _ in batches():
        pass


def _files(files: _Files, size: int, shuffled: bool) -> Batches:
    return lambda: iter(DataLoader(files, size, shuffle=shuffled))


def _loading(tokens: ShardDataset, size: int) -> Batches:
    return lambda: (b["indices"] for b in DataLoader(tokens, size, shuffle=True, collate_fn=collate))  # type: ignore[arg-type]


def _streaming(tokens: ShardDataset, size: int) -> Batches:
    return lambda: (
        b["indices"] for b in DataLoader(tokens.stream(batch_size=size), None, collate_fn=collate)
    )  # type: ignore[arg-type]


def _webdataset(folder: Path, setting: Setting, shuffled: bool) -> Batches:
    import webdataset

    urls = sorted(str(path) for path in folder.glob("*.tar"))

    def batches() -> Iterator[Tensor]:
        data = webdataset.WebDataset(urls, shardshuffle=len(urls) if shuffled else False, seed=0)
        if shuffled:
            data = data.shuffle(SHUFFLE_BUFFER)
        data = data.decode().to_tuple("pixel.npy").map_tuple(lambda a: torch.from_numpy(a.astype(np.int64)))
        for (batch,) in data.batched(setting.batch_size):
            yield batch

    return batches


def _row(
    key: tuple[str, str], median: float, written: dict[str, float], place: Path, setting: Setting
) -> ReadRow:
    from vistok import __version__

    access, reader = key
    folder = "tar" if reader == "webdataset" else reader
    data = (path for path in (place / folder).iterdir() if path.suffix in (".arrow", ".tar", ".npy"))
    each = sum(path.stat().st_size for path in data) / setting.num_samples
    bits = (NUM_CODES - 1).bit_length() if reader == "arrow-packed" else 16
    return ReadRow(
        access=access,
        reader=reader,
        samples_per_s=setting.num_samples / median,
        bytes_per_sample=each,
        over_payload=each / (NUM_TOKENS * bits / 8 + KEY_CHARACTERS),
        write_samples_per_s=setting.num_samples / written[folder],
        num_samples=setting.num_samples,
        batch_size=setting.batch_size,
        repeats=setting.repeats,
        device=f"cpu: {machine('cpu')}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        vistok=__version__,
        commit=commit(),
        day=today(),
    )
