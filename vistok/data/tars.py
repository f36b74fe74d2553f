"""WebDataset shards as a map-style dataset with an index, or as a stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from vistok.data.base import ImageDataset
from vistok.data.fields import Fields, duplicate
from vistok.data.pipes import PREFIX, PipedShards
from vistok.data.tar_fields import NUM_LOOKED_AT, check_chosen, image_field, read_fields
from vistok.data.tar_index import TarMember, TarSample, index_tar
from vistok.errors import DataError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import read_image
from vistok.tokenizer.preprocess import fit_image, to_tensor


class WebDatasetImages(ImageDataset):
    """Images in WebDataset shards, in the order of the shards; captions from ``txt``, labels from ``cls``.

    A key is the member's name up to the first dot after the last slash; members of one key make one sample, adjacent or
    not. Where ``txt`` or ``cls`` is missing, ``json`` gives ``caption`` and ``label``. The constructor reads all headers
    and refuses truncated shards; pixels are read by offset, nothing is ever extracted. A sample without an image is kept,
    and reading it is an ImageError, so that counts stay true.

    Args:
        shards: Shards: a brace list such as ``"train-{0000..0146}.tar"``, a folder of tars, a path, or a list of these.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.
        image_field: Which member is the image, such as ``jpg``; None: the only one that has an image's suffix.
        prefix_keys: Whether keys begin with the shard's name and a slash, for shards that number samples alike.
        fields: What else items have, of each sample's ``json`` or of a member of text.
        allow_pipes: Whether ``pipe:COMMAND`` may be a shard: what a shell command prints, see ``PipedShards``. Whoever
            writes the name of such a shard runs commands on this machine.

    Raises:
        DataError: shards that are missing, not local, compressed, truncated or empty; keys that occur twice; fields that
            the first samples do not have.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
        image_field: str | None = None,
        prefix_keys: bool = False,
        fields: Fields | None = None,
        allow_pipes: bool = False,
    ) -> None:
        super().__init__(policy, multiple_of)
        asked = fields or Fields()
        self.fields = replace(asked, image=image_field or asked.image)
        self.prefix_keys = prefix_keys
        names = expand_shards(shards, allow_pipes)
        self._pipes = PipedShards([name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)])
        piped = iter(self._pipes.paths)
        self.shards = [next(piped) if name.startswith(PREFIX) else Path(name) for name in names]
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._samples: list[TarSample] = []
        origin: dict[str, Path] = {}
        for sample in self._indexed():
            key = self._key(sample.key, sample.shard)
            if key in origin:
                raise duplicate(
                    key,
                    repr(self._name(origin[key])),
                    repr(self._name(sample.shard)),
                    "give --prefix-keys (prefix_keys=True), or leave one out",
                )
            origin[key] = sample.shard
            self._samples.append(sample)
        self._keys = list(origin)
        first = self._name(self.shards[0])
        if not self._keys:
            raise DataError(f"{first!r} and the other shards ({len(self.shards)} in all) have no samples")
        if self.fields.chosen or self.fields.key:
            looked_at = range(min(NUM_LOOKED_AT, len(self._keys)))
            check_chosen(self.fields, map(self.extras, looked_at), repr(first))

    def _indexed(self) -> Iterator[TarSample]:
        for shard in self.shards:
            if shard in self._pipes:
                self._pipes.fetch(shard)
            with contextlib.suppress(OSError):  # index_tar tells what is wrong
                self._stamps[shard] = _stamp(shard.stat())
            yield from index_tar(shard, self._name(shard))

    def _name(self, shard: Path) -> str:
        return self._pipes.name(shard) if shard in self._pipes else str(shard)

    def _open(self, shard: Path) -> BinaryIO:
        return self._pipes.open(shard) if shard in self._pipes else shard.open("rb")

    def _read(self, shard: Path, member: TarMember) -> bytes:
        try:
            with self._open(shard) as stream:
                # the members of another file, or of one that was written anew, would lie elsewhere
                if _stamp(os.fstat(stream.fileno())) != self._stamps[shard] and shard not in self._pipes:
                    raise DataError(
                        f"{str(shard)!r} has changed since it was indexed: build the dataset again"
                    )
                stream.seek(member.offset)
                data = stream.read(member.size)
        except OSError as error:
            raise DataError(
                f"{self._name(shard)!r} cannot be read: {error.strerror or error}; put it back, or leave it out"
            ) from error
        if len(data) != member.size:
            raise DataError(
                f"{self._name(shard)!r} has become shorter since it was indexed: build the dataset again"
            )
        return data

    def _key(self, key: str, shard: Path) -> str:
        return f"{shard.stem}/{key}" if self.prefix_keys else key

    def keys(self) -> list[str]:
        """The keys, shard by shard."""
        return self._keys

    def source(self, index: int) -> bytes:
        """The image's file.

        Raises:
            ImageError: the sample has no image, or several.
            DataError: the shard has changed since it was indexed.
        """
        sample = self._samples[index]
        name = image_field(sample.fields, self.fields.image, self._keys[index])
        return self._read(sample.shard, sample.fields[name])

    def extras(self, index: int) -> dict[str, Any]:
        """Label, caption and chosen fields, where the sample has them."""
        sample = self._samples[index]

        def read(name: str) -> bytes:
            return self._read(sample.shard, sample.fields[name])

        return read_fields(sample.fields, read, self.fields, self._keys[index])

    def stream(self, shuffle_shards: int = 0, seed: int = 0) -> Any:
        """The items as a webdataset pipeline, an IterableDataset that splits shards by rank and DataLoader worker.

        Reads shards from front to end, which is faster than the index on slow disks and for millions of samples.

        Args:
            shuffle_shards: Buffer of the shard shuffle; 0 keeps the order.
            seed: Of that shuffle.

        Raises:
            DataError: members of one sample that are not adjacent, which a stream would tear apart; piped shards.
        """
        import webdataset  # heavy, and only this needs it

        piped = next((shard for shard in self.shards if shard in self._pipes), None)
        if piped is not None:
            raise DataError(f"{self._name(piped)!r} cannot be streamed: read the dataset by index")
        torn = next((s for s in self._samples if not s.adjacent), None)
        if torn is not None:
            raise DataError(
                f"{str(torn.shard)!r} has members of {torn.key!r} that are not adjacent: index it, or sort the shard"
            )
        pipeline = webdataset.WebDataset(
            [str(shard) for shard in self.shards],
            shardshuffle=shuffle_shards or False,
            detshuffle=True,
            seed=seed,
            nodesplitter=webdataset.split_by_node,
            empty_check=False,
        )
        # no .decode(): webdataset's default decoders unpickle
        return pipeline.map(self._streamed)

    def _streamed(self, sample: dict[str, Any]) -> dict[str, Any]:
        key = self._key(sample["__key__"], Path(sample["__url__"]))
        fields = {name: value for name, value in sample.items() if not name.startswith("__")}
        image = read_image(fields[image_field(fields, self.fields.image, key)], self.policy, name=key)
        pixels = to_tensor(fit_image(image, self.policy_for(image), self.multiple_of, name=key))
        return {"image": pixels, "key": key, **read_fields(fields, fields.__getitem__, self.fields, key)}


def expand_shards(shards: str | Path | Sequence[str | Path], allow_pipes: bool = False) -> list[str]:
    """Names of shards: brace lists expanded, folders listed and sorted; pipes keep their ``pipe:`` in front.

    Raises:
        DataError: nothing there, something remote, pipes that are not allowed, or one shard named twice.
    """
    found: list[str] = []
    for item in [shards] if isinstance(shards, (str, Path)) else shards:
        for name in _expand_braces(str(item), allow_pipes):
            path = Path(name)
            inside = [name]
            if not name.startswith(PREFIX) and path.is_dir():
                inside = sorted(str(p) for p in path.glob("*.tar") if not p.name.startswith("."))
            if not inside:
                raise DataError(f"{name!r} has no *.tar: give a folder of shards, or their paths")
            found += inside
    if not found:
        raise DataError("there are no shards in the list: give at least one")
    for name, same in groupby(sorted(found)):
        if len(list(same)) > 1:
            raise DataError(f"shard {name!r} is listed twice: leave one out")
    return found


def _expand_braces(text: str, allow_pipes: bool) -> list[str]:
    import braceexpand  # comes with webdataset

    if text.startswith(PREFIX):
        if not allow_pipes:
            raise DataError(
                f"{text!r} is a shell command, not a local path: if you trust it, allow it to run with --allow-pipes (allow_pipes=True)"
            )
    elif "://" in text:
        raise DataError(
            f"{text!r} is not a local path: download the shards first, vistok fetches nothing by itself"
        )
    if "{" not in text or (not text.startswith(PREFIX) and Path(text).exists()):
        return [text]
    try:
        return list(braceexpand.braceexpand(text))
    except ValueError as error:
        raise DataError(
            f"{text!r} is not a brace list: write it as 'train-{{0000..0146}}.tar' ({error})"
        ) from error


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
