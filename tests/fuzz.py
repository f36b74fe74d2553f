"""Feeds damaged files to the shard reader and to the loader of weights; whatever they raise must be one of vistok's errors.

    python tests/fuzz.py shards|weights [--seconds 60]

Needs atheris, which mutates the files and keeps what reaches new lines of code. A mutated shard gets a record, and an Arrow
shard a checksum, that fit it, so that damage is met by what parses it and not by the first check alone. Ends with 1 and the
traceback at the first other exception; the input that did it is left as crash-* in the working directory.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris
import torch

with atheris.instrument_imports(
    include=["vistok.shards", "vistok.tokenizer", "vistok.spec", "vistok.recorded"]
):
    import vistok
    from vistok import shards
    from vistok.shards import arrow_columns, arrow_container, arrow_file, arrow_streams, tar_container
    from vistok.shards import reader as _reader
    from vistok.tokenizer import saving as _saving

from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.data import Procedural
from vistok.errors import VistokError
from vistok.quantizers import FSQ
from vistok.tokenizer import Tokenizer

INSTRUMENTED = (arrow_columns, arrow_container, arrow_file, arrow_streams, tar_container, _reader, _saving)
MEMORY_MB = 3000
LONGEST = 1 << 18


def tokenizer() -> Tokenizer:
    """A small one."""
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "patch": 8}
    return Tokenizer(ConvEncoder(dim=4, **size), FSQ((8, 5, 5, 5)), ConvDecoder(dim=4, **size)).eval()


def read_shards(folder: Path) -> None:
    """Reads everything that the reader gives, and verifies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = shards.open(folder)
        keys = dataset.keys()
        batch = shards.collate(dataset.__getitems__(range(min(len(dataset), 64))))
        shards.to_encoded(batch)
        if keys:
            dataset[0]
        list(dataset.stream(rank=0, world=1, batch_size=2))
        shards.verify(folder)


def load_weights(folder: Path) -> None:
    """Loads a tokenizer and asks what it is."""
    vistok.load(folder).spec.to_json()


class Target:
    """Directories whose files are replaced by what atheris thinks of, one at a time.

    Args:
        folders: Whole ones.
        use: Reads one of them.
    """

    def __init__(self, folders: list[Path], use: Callable[[Path], None]) -> None:
        self._use = use
        paths = [path for folder in folders for path in sorted(folder.iterdir())]
        self._files = [(path, path.read_bytes()) for path in paths if path.is_file()]
        self._records = {path: data for path, data in self._files if path.name.startswith("shard-")}

    def seeds(self, folder: Path) -> None:
        """Writes each file as it is, its number in front."""
        for number, (_, data) in enumerate(self._files):
            (folder / f"{number:03d}").write_bytes(bytes([number]) + data)

    def __call__(self, data: bytes) -> None:
        """Replaces the file that the first byte names, uses the directory, and puts the file back."""
        if not data:
            return
        path, before = self._files[data[0] % len(self._files)]
        record = path.with_suffix(".json") if path.suffix in (".arrow", ".tar") else None
        changed = with_checksum(data[1:]) if path.suffix == ".arrow" else data[1:]
        path.write_bytes(changed)
        if record is not None:
            told = json.loads(self._records[record])
            told.update(bytes=len(changed), sha256=hashlib.sha256(changed).hexdigest())
            record.write_text(json.dumps(told))
        try:
            self._use(path.parent)
        except VistokError:
            pass
        finally:
            path.write_bytes(before)
            if record is not None:
                record.write_bytes(self._records[record])


def with_checksum(data: bytes) -> bytes:
    """An Arrow shard whose checksum is right, wherever it still has the place for one."""
    footer = len(data) - arrow_file.TAIL_BYTES
    try:
        footer -= arrow_file._footer_bytes(memoryview(data))
        check = footer - arrow_file.CHECK_BYTES
        start = arrow_file._body_start(memoryview(data), check - arrow_file.END_BYTES)
    except Exception:  # too short for a footer
        return data
    if check < 0 or data[check : check + 4] != arrow_file.MARK:
        return data
    pieces = (data[:start], data[check - arrow_file.END_BYTES : check], data[footer:])
    value = arrow_file._checksum(*map(memoryview, pieces))
    return data[: check + 4] + value.to_bytes(4, "little") + data[footer:]


def main() -> None:
    """Parses the arguments and lets atheris work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("shards", "weights"))
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="vistok-fuzz-") as room:
        folders = []
        if arguments.what == "weights":
            tokenizer().save(Path(room) / "tokenizer")
            folders.append(Path(room) / "tokenizer")
        else:
            for container in ("arrow", "arrow-packed", "tar"):
                out = Path(room) / container
                shards.encode(
                    tokenizer(), Procedural(5, 16), out, shard_size=3, container=container, progress=False
                )
                folders.append(out)
        target = Target(folders, read_shards if arguments.what == "shards" else load_weights)
        seeds = Path(room) / "seeds"
        seeds.mkdir()
        target.seeds(seeds)
        flags = [
            f"-max_total_time={arguments.seconds}",
            f"-max_len={LONGEST}",
            f"-rss_limit_mb={MEMORY_MB}",
            "-timeout=20",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *flags, str(seeds)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
