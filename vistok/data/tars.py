"""WebDataset shards as a map-style dataset with an index, or as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vistok.data.base import ImageDataset
from vistok.data.tar_index import TarMember, TarSample, index_tar
from vistok.errors import DataError, ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import SUFFIXES, read_image
from vistok.tokenizer.preprocess import fit_image, to_tensor

_FIELDS = tuple(suffix[1:] for suffix in SUFFIXES)


class WebDatasetImages(ImageDataset):
    """Images in local WebDataset shards, in the order of the shards; captions from ``txt``, labels from ``cls``.

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

    Raises:
        DataError: shards that are missing, not local, compressed, truncated or empty; keys that occur twice.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
        image_field: str | None = None,
        prefix_keys: bool = False,
    ) -> None:
        super().__init__(policy, multiple_of)
        self.image_field, self.prefix_keys = image_field, prefix_keys
        self.shards = expand_shards(shards)
        self._samples: list[TarSample] = []
        origin: dict[str, Path] = {}
        for shard in self.shards:
            for sample in index_tar(shard):
                key = self._key(sample.key, shard)
                if key in origin:
                    raise DataError(
                        f"key {key!r} is in {str(origin[key])!r} and again in {str(shard)!r}: set prefix_keys=True, or leave one out"
                    )
                origin[key] = shard
                self._samples.append(sample)
        self._keys = list(origin)
        if not self._keys:
            raise DataError(
                f"{str(self.shards[0])!r} and the other shards ({len(self.shards)} in all) have no samples"
            )

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
        return _read(
            sample.shard, sample.fields[image_field(sample.fields, self.image_field, self._keys[index])]
        )

    def extras(self, index: int) -> dict[str, Any]:
        """Label and caption, where the sample has them."""
        sample = self._samples[index]
        return label_and_caption(
            sample.fields, lambda name: _read(sample.shard, sample.fields[name]), self._keys[index]
        )

    def stream(self, shuffle_shards: int = 0, seed: int = 0) -> Any:
        """The items as a webdataset pipeline, an IterableDataset that splits shards by rank and DataLoader worker.

        Reads shards from front to end, which is faster than the index on slow disks and for millions of samples.

        Args:
            shuffle_shards: Buffer of the shard shuffle; 0 keeps the order.
            seed: Of that shuffle.

        Raises:
            DataError: members of one sample that are not adjacent, which a stream would tear apart.
        """
        import webdataset  # heavy, and only this needs it

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
        image = read_image(fields[image_field(fields, self.image_field, key)], self.policy, name=key)
        pixels = to_tensor(fit_image(image, self.policy, self.multiple_of, name=key))
        return {"image": pixels, "key": key, **label_and_caption(fields, fields.__getitem__, key)}


def expand_shards(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    """Paths of shards: brace lists expanded, folders listed and sorted.

    Raises:
        DataError: nothing there, something remote, or one shard named twice.
    """
    found: list[Path] = []
    for item in [shards] if isinstance(shards, (str, Path)) else shards:
        for name in _expand_braces(str(item)):
            path = Path(name)
            inside = (
                sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))
                if path.is_dir()
                else [path]
            )
            if not inside:
                raise DataError(f"{name!r} has no *.tar: give a folder of shards, or their paths")
            found += inside
    if not found:
        raise DataError("there are no shards in the list: give at least one")
    for path, same in groupby(sorted(found)):
        if len(list(same)) > 1:
            raise DataError(f"shard {str(path)!r} is listed twice: leave one out")
    return found


def _expand_braces(text: str) -> list[str]:
    import braceexpand  # comes with webdataset

    if text.startswith("pipe:") or "://" in text:
        raise DataError(
            f"{text!r} is not a local path: download the shards first, vistok runs no commands and fetches nothing"
        )
    if "{" not in text or Path(text).exists():
        return [text]
    try:
        return list(braceexpand.braceexpand(text))
    except ValueError as error:
        raise DataError(
            f"{text!r} is not a brace list: write it as 'train-{{0000..0146}}.tar' ({error})"
        ) from error


def _read(shard: Path, member: TarMember) -> bytes:
    try:
        with shard.open("rb") as stream:
            stream.seek(member.offset)
            data = stream.read(member.size)
    except OSError as error:
        raise DataError(f"{str(shard)!r} cannot be read: {error.strerror or error}") from error
    if len(data) != member.size:
        raise DataError(f"{str(shard)!r} has become shorter since it was indexed: build the dataset again")
    return data


def image_field(fields: dict[str, Any], wanted: str | None, key: str) -> str:
    """Which field of a sample is its image.

    Raises:
        ImageError: none, or several.
    """
    names = [name for name in fields if name in _FIELDS] if wanted is None else [wanted] * (wanted in fields)
    if len(names) == 1:
        return names[0]
    have = ", ".join(sorted(fields))
    if names:
        raise ImageError(
            f"sample {key!r} has several images ({', '.join(sorted(names))}): say which with image_field"
        )
    raise ImageError(f"sample {key!r} has no image, its members are {have}: remove it, or set image_field")


def label_and_caption(fields: dict[str, Any], read: Callable[[str], bytes], key: str) -> dict[str, Any]:
    """``label`` and ``caption`` of a sample, where it has them.

    Args:
        fields: Names of its members.
        read: Gives the bytes of one.
        key: For error messages.

    Raises:
        DataError: they cannot be read.
    """
    found: dict[str, Any] = {}
    name = ""
    try:
        if "json" in fields and not ("cls" in fields and "txt" in fields):
            name = "json"
            data = json.loads(read(name))
            data = data if isinstance(data, dict) else {"label": data}
            found |= {"label": int(data["label"])} if isinstance(data.get("label"), int) else {}
            found |= {"caption": data["caption"]} if isinstance(data.get("caption"), str) else {}
        if "cls" in fields:
            name = "cls"
            found["label"] = int(read(name))
        if "txt" in fields:
            name = "txt"
            found["caption"] = read(name).decode()
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"member {name!r} of sample {key!r} cannot be read: {' '.join(str(error).split())}"
        ) from error
    return found
