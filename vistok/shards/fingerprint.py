"""Whether two runs make the same tokens: the fields that decide it, hashed, and those that are only written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistok.data import ImageDataset
from vistok.errors import ShardError, VistokError
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.latents import FLOAT32, LatentFormat
from vistok.shards.loading import KeyedImages, plain
from vistok.shards.plan import Plan
from vistok.tokenizer import Tokenizer

FORMAT_VERSION = 1
FILE_NAME = "fingerprint.json"
ANONYMOUS = ("name", "licence", "provenance", "metrics")
TOKENIZER_FIELDS = ("model", "image", "multiple_of", "weights_hash")


@dataclass(frozen=True)
class Fingerprint:
    """The hard fields of a run, flat: dotted name to JSON value. Equal fields mean equal shards.

    Fields under ``model.`` and ``image.``, ``multiple_of`` and ``weights_hash`` describe the tokenizer, those under
    ``data.`` how the dataset makes its images, those under ``plan.`` which images there are.
    """

    fields: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of all fields, in hex."""
        return _hash(dict(self.fields))

    def difference(self, other: Fingerprint, only: tuple[str, ...] = ()) -> str:
        """The first fields that differ, as ``name was X and is Y now``; empty if none does.

        Args:
            other: The fingerprint of now.
            only: Names of the fields, or of their first part, to compare; all if empty.
        """
        told = []
        for name in sorted(set(self.fields) | set(other.fields), key=_tell_order):
            if only and name.split(".")[0] not in only:
                continue
            before, now = self.fields.get(name), other.fields.get(name)
            if before != now:
                told.append(f"{name} was {_short(before)} and is {_short(now)} now")
        more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
        return "; ".join(told[:3]) + more

    def to_json(self) -> str:
        """The fields and their hash as JSON text."""
        return (
            json.dumps({"sha256": self.sha256, "fields": dict(self.fields)}, indent=1, sort_keys=True) + "\n"
        )

    @classmethod
    def read(cls, out: Path) -> Fingerprint:
        """The fingerprint of the shards in a directory.

        Raises:
            ShardError: the file is missing or damaged.
        """
        path = out / FILE_NAME
        try:
            data = json.loads(path.read_bytes())
            fingerprint = cls(dict(data["fields"]))
            intact = data["sha256"] == fingerprint.sha256
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        if not intact:
            raise ShardError(f"{path} is damaged: its hash does not match its fields")
        return fingerprint


def tokenizer_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """What of a tokenizer decides its tokens: its construction but for the name, its image policy, its weights."""
    config, spec = tokenizer.to_config(), tokenizer.spec
    # the policy is told with its defaults filled in, as image.*
    parts = {name: value for name, value in config["args"].items() if name not in ("name", "image")}
    return {
        **_flat("model", {"class": config["class"], **parts}),
        **_flat("image", spec.image.to_json_data()),
        "multiple_of": spec.multiple_of,
        "weights_hash": spec.weights_hash,
    }


def fingerprint(
    tokenizer: Tokenizer,
    dataset: KeyedImages,
    plan: Plan,
    container: str,
    latents: LatentFormat = FLOAT32,
    precision: str | None = None,
) -> Fingerprint:
    """The fingerprint of encoding a dataset by a tokenizer.

    ``precision`` is that of the encoder, if it is not the one of the weights. The dataset counts by its keys, by what it says of itself where it can (``ImageDataset.describe``: image policy,
    fields, buckets, views), and by the pixels and fields of its first image. Those of the others do not count, since
    reading them all to find out would cost as much as encoding.
    """
    told = dataset.describe() if isinstance(dataset, ImageDataset) else {}
    pixels, first = _first_image(dataset)
    return Fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "container": container,
            **tokenizer_fields(tokenizer),
            "spec_sha256": spec_hash(tokenizer.spec.to_json_data()),
            "dtype": precision or str(tokenizer_dtype(tokenizer)).removeprefix("torch."),
            **(_flat("data", told) if told else {}),
            **(_flat("latents", asdict(latents)) if tokenizer.spec.kind != "discrete" else {}),
            "data.first_image": pixels,
            "data.first_fields": _hash(first) if first else "",
            **RunColumns.of(tokenizer, dataset, first, plan).to_fields(),
            "plan.num_samples": plan.num_samples,
            "plan.shard_size": plan.shard_size,
            "plan.keys_sha256": plan.keys_hash,
        }
    )


def _first_image(dataset: KeyedImages) -> tuple[str, dict[str, Any]]:
    """The sha256 over shape and 8-bit pixels of the image with the first key, and its fields; empty if it cannot be read."""
    keys = dataset.keys()
    first = min(range(len(keys)), key=keys.__getitem__)
    try:
        item = dataset[first]
        image = item["image"]
        pixels = ((image.float().nan_to_num().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).contiguous()
        fields = {name: plain(value) for name, value in item.items() if name not in ("image", "key")}
        json.dumps(fields, allow_nan=False)
    except (
        Exception
    ):  # a dataset is anyone's code; encoding reads this image again and tells what is wrong with it
        return "", {}
    digest = hashlib.sha256(f"{tuple(pixels.shape)}|".encode() + pixels.numpy().tobytes())
    return digest.hexdigest(), fields


def spec_hash(data: Mapping[str, Any]) -> str:
    """The sha256 of a spec's JSON data, but for what may differ between tokenizers that make the same tokens."""
    return _hash({name: value for name, value in data.items() if name not in ANONYMOUS})


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def soft_fields(device: torch.device, batch_size: int) -> dict[str, Any]:
    """What may change the last bits of a float, recorded for each run and never compared."""
    try:
        version = metadata.version("vistok")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {
        "batch_size": batch_size,
        "device": device.type,
        "numpy": np.__version__,
        "pillow": metadata.version("pillow"),  # decodes and scales images
        "pyarrow": metadata.version("pyarrow"),
        "threads": torch.get_num_threads(),  # batches at once on a CPU, where each is computed by one
        "torch": torch.__version__,
        "vistok": version,
    }


def check_tokenizer(fields: Fingerprint, tokenizer: Tokenizer, where: Path) -> None:
    """Makes sure that a tokenizer is the one that made the shards.

    Raises:
        ShardError: it is not; the message names what differs.
    """
    try:
        now = Fingerprint(tokenizer_fields(tokenizer))
    except VistokError as error:
        raise ShardError(
            f"the tokenizer cannot be compared with the one that made {where}: {error}"
        ) from error
    difference = fields.difference(now, only=TOKENIZER_FIELDS)
    if difference:
        raise ShardError(f"{where} was made by another tokenizer: {difference}")


def tokenizer_dtype(tokenizer: Tokenizer) -> torch.dtype:
    """The type of the weights, in which images are given to the tokenizer."""
    return next((p.dtype for p in tokenizer.parameters() if p.is_floating_point()), torch.float32)


def tokenizer_device(tokenizer: Tokenizer) -> torch.device:
    """Where the weights are."""
    return next((p.device for p in tokenizer.parameters()), torch.device("cpu"))


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested JSON data as dotted names; ``args`` levels of recorded modules are left out of the names."""
    if isinstance(value, Mapping) and value:
        fields: dict[str, Any] = {}
        for key, inner in value.items():
            fields.update(_flat(prefix if key == "args" else f"{prefix}.{key}", inner))
        return fields
    return {prefix: value}


def _tell_order(name: str) -> tuple[int, str]:
    """Classes before their arguments before weights and hashes, because a difference in one explains those after it."""
    derived = name.startswith(("weights_hash", "spec_sha256", "data.first_", "columns."))
    return (2 if derived else 0 if name.endswith(".class") else 1, name)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[:12]}..." if isinstance(value, str) and len(text) == 66 else text
