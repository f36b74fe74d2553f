"""Token shards back to images: one PNG a sample."""

from __future__ import annotations

import hashlib
import io
import json
import os
import string
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistok.errors import ShardError
from vistok.shards.batching import same_size_batches
from vistok.shards.collate import collate, to_encoded
from vistok.shards.commit import TEMP_PREFIX, made
from vistok.shards.job import evaluating
from vistok.shards.progress import Progress
from vistok.shards.reader import ShardDataset
from vistok.tokenizer import Tokenizer

SAFE = frozenset(string.ascii_letters + string.digits + "-_. ")
MAX_NAME = 200


@dataclass(frozen=True)
class DecodeSummary:
    """What was written.

    Args:
        out_dir: Where to.
        num_images: How many PNG files.
        seconds: How long it took.
        images_per_second: How fast.
    """

    out_dir: Path
    num_images: int
    seconds: float
    images_per_second: float

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps({**asdict(self), "out_dir": str(self.out_dir)}, indent=1)

    def __str__(self) -> str:
        speed = f"{self.seconds:.1f} s ({self.images_per_second:.1f} images/s)"
        return f"{self.out_dir}: {self.num_images} images in {speed}"


def decode(
    tokenizer: Tokenizer,
    shards: str | Path | ShardDataset,
    out_dir: str | Path,
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> DecodeSummary:
    """Decodes all samples of token shards into PNG files.

    Batches are those that ``encode`` made with the same ``batch_size``, so the images are, to the last bit, those of
    ``tokenizer.decode(tokenizer.encode(x))``. A file has the name of its key, with slashes as folders and unsafe
    characters as percent codes.

    Args:
        tokenizer: The one that made the shards.
        shards: A directory or what ``open`` gave.
        out_dir: Made if it is not there; files of the same names are replaced.
        batch_size: Images of equal size that are decoded together.
        progress: Show a bar.

    Raises:
        ShardError: shards that are damaged or of another tokenizer, a directory that cannot be written, or lies in the
            shards.
        TokenizerError: the tokenizer has no decoder.
    """
    out_dir = Path(out_dir)
    dataset = shards if isinstance(shards, ShardDataset) else ShardDataset(shards)
    dataset.check(tokenizer)
    if batch_size < 1:
        raise ShardError(f"batch_size must be at least 1, it is {batch_size}")
    if not out_dir.is_dir() and (out_dir.exists() or out_dir.is_symlink()):
        raise ShardError(f"{out_dir} is not a directory: give a new or empty one")
    place, own = out_dir.resolve(), dataset.path.resolve()
    if place == own or own in place.parents:
        raise ShardError(f"{out_dir} lies in the shards themselves: give another directory")
    with Progress(len(dataset), what="decode", shown=progress) as bar, evaluating(tokenizer):
        try:
            with made(out_dir):
                for items in _batches(dataset, batch_size):
                    pictures = tokenizer.decode(to_encoded(collate(items), dataset.spec))
                    for item, picture in zip(items, pictures, strict=True):
                        _write_png(picture, out_dir / file_name(item["key"]))
                    tokens = (item["indices" if "indices" in item else "latents"] for item in items)
                    bar.advance(len(items), sum(map(len, tokens)))
        except OSError as error:
            raise ShardError(
                f"{out_dir} cannot be written: {error.strerror or error}; mend this, or give another directory"
            ) from error
        seconds = bar.seconds
    return DecodeSummary(out_dir, bar.images, seconds, bar.images / max(seconds, 1e-9))


def file_name(key: str) -> str:
    """A safe relative path for a key, different for different keys: ``n01/cat 1.jpg`` -> ``n01/cat 1.jpg.png``.

    No part is empty, starts with a dot, leaves the folder, or is too long for a file system.
    """
    parts = [safe_name(part) for part in key.split("/")]
    # a folder must not have the name of a file: key "a" gives a.png, key "a.png/b" must not need a folder a.png
    folders = [f"{part[:-4]}%2Epng" if part.endswith(".png") else part for part in parts[:-1]]
    return "/".join([*folders, f"{parts[-1]}.png"])


def safe_name(part: str) -> str:
    """A name that any file system takes, for one part of a key; slashes and unsafe characters become percent codes."""
    if not part:
        return "%"
    encoded = part.encode("utf-8", "surrogatepass")
    safe = "".join(chr(byte) if chr(byte) in SAFE else f"%{byte:02X}" for byte in encoded)
    if safe[0] in ". ":
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if len(safe) > MAX_NAME:
        safe = f"{safe[: MAX_NAME - 17]}%{hashlib.sha256(encoded).hexdigest()[:16]}"
    return safe


def _batches(dataset: ShardDataset, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    start = 0
    for sidecar in dataset.sidecars:
        items = (dataset[i] for i in range(start, start + sidecar.n_out))
        yield from same_size_batches(items, lambda item: (item["size"], item["grid"]), batch_size)
        start += sidecar.n_out


def _write_png(picture: Any, path: Path) -> None:
    from vistok.tokenizer.preprocess import to_pil

    buffer = io.BytesIO()
    to_pil(picture.cpu()).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{hashlib.sha256(path.name.encode()).hexdigest()[:16]}")
    try:
        temp.write_bytes(buffer.getvalue())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
