"""Images of a dataset in the order of the plan, read in this process or by workers; what cannot be read says why."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vistok.data.fields import SHARD_FIELDS
from vistok.errors import ShardError, VistokError
from vistok.shards.ahead import ahead
from vistok.shards.pixels import as_bytes_if_exact
from vistok.shards.plan import Plan

RANGE_TOLERANCE = 1e-3
MAX_META_CHARS = 1 << 23
CHUNKS_AHEAD = 2
PARENT_SECONDS = 1.0
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


class KeyedImages(Protocol):
    """What ``encode`` asks of a dataset; every dataset of ``vistok.data`` has it."""

    def keys(self) -> Sequence[str]:
        """The key of each item, by position."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """``image`` (3, H, W) in [-1, 1], its ``key``, and any JSON-like fields (``label``, ``caption``)."""
        ...


@dataclass(frozen=True)
class Loaded:
    """One sample as read.

    Args:
        number: Its number in the plan.
        key: Its key in the plan.
        image: (3, H, W), float32 in [-1, 1], or the 8-bit pixels that are exactly it; None where it cannot be used.
        meta: The dataset's other fields, as JSON data.
        reason: Why it cannot be used; empty if it can.
        seen: What was read, if anything was, of an image that cannot be used.
        short: Whether that is for want of something of the machine: the image may be good, and may not be skipped.
    """

    number: int
    key: str
    image: Tensor | None
    meta: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seen: Tensor | None = None
    short: bool = False


class PlannedImages(Dataset[Loaded]):
    """A dataset by sample number; reading never raises.

    Args:
        dataset: Keyed images.
        plan: Of the same keys.
        multiple_of: What the tokenizer demands of height and width.
    """

    def __init__(self, dataset: KeyedImages, plan: Plan, multiple_of: int) -> None:
        keys = list(dataset.keys())
        self._dataset, self._plan, self._multiple_of = dataset, plan, multiple_of
        self._order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> Loaded:
        key = self._plan.keys[number]
        image: Any = None
        try:
            item = self._dataset[int(self._order[number])]
            if item["key"] != key:
                raise ShardError(f"the dataset has changed, it gives {item['key']!r} in this place")
            image = item["image"]
            check_image(image, self._multiple_of)
            taken = sorted(SHARD_FIELDS & set(item))
            if taken:
                raise ShardError(
                    f"its field {taken[0]!r} is a name that token shards use themselves: rename it"
                )
            meta = {name: plain(value) for name, value in item.items() if name not in ("image", "key")}
            if len(json.dumps(meta, allow_nan=False)) > MAX_META_CHARS:
                raise ShardError(f"its fields are longer than {MAX_META_CHARS} characters")
        except Exception as error:  # a dataset is anyone's code: whatever it raises is told with the key
            seen = image if isinstance(image, Tensor) else None
            return Loaded(number, key, None, reason=reason_of(error), seen=seen, short=_is_shortage(error))
        return Loaded(number, key, image.detach().cpu().float(), meta)


class PlannedChunks(Dataset["_Packed"]):
    """The same by ranges of numbers, as worker processes send them."""

    def __init__(self, source: PlannedImages) -> None:
        self._source = source

    def __getitem__(self, numbers: range) -> _Packed:
        return _packed([self._source[number] for number in numbers])


def load_images(
    dataset: KeyedImages, plan: Plan, shards: Sequence[int], multiple_of: int, workers: int, chunk: int = 32
) -> Generator[Loaded, None, None]:
    """All samples of some shards, in order.

    Args:
        dataset: Keyed images.
        plan: Of the same keys.
        shards: Which ones.
        multiple_of: What the tokenizer demands of height and width.
        workers: Processes that read ahead, also into the next shard; 0 reads here, when asked.
        chunk: Images that a worker reads at a time.

    Raises:
        ShardError: while reading: the machine is short of memory or open files, or a disk fails.
    """
    source = PlannedImages(dataset, plan, multiple_of)
    if workers == 0:
        return _without_shortages(source[number] for shard in shards for number in plan.numbers(shard))
    chunks = [
        range(start, min(start + chunk, numbers.stop))
        for numbers in map(plan.numbers, shards)
        for start in range(numbers.start, numbers.stop, chunk)
    ]
    # the workers are forked here, before this process has threads of its own
    with warnings.catch_warnings():
        # more workers than cores were asked for: PyTorch would say so twice
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = iter(
            DataLoader(
                PlannedChunks(source),
                batch_size=None,
                sampler=chunks,
                num_workers=workers,
                collate_fn=_as_it_is,
                worker_init_fn=_end_with_parent,
            )
        )
    return _without_shortages(_in_turn(ahead(loader, CHUNKS_AHEAD)))


def _end_with_parent(worker: int) -> None:
    """A worker whose parent was killed would wait for ever with its pipe full: its siblings hold the other end open."""
    parent, above = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        # above a worker is its parent or the server that forked it; either ends when the parent does
        while os.getppid() == above and (parent is None or parent.is_alive()):
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="vistok-parent", daemon=True).start()


def _in_turn(chunks: Generator[_Packed, None, None]) -> Generator[Loaded, None, None]:
    with contextlib.closing(chunks):
        for packed in chunks:
            yield from _unpacked(packed)


def _without_shortages(images: Generator[Loaded, None, None]) -> Generator[Loaded, None, None]:
    with contextlib.closing(images):
        for image in images:
            if image.short:
                raise ShardError(
                    f"image {image.key!r} cannot be read, for which the machine is to blame: {image.reason}; finished "
                    "shards are kept, run the same again once this is mended"
                )
            yield image


def _is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made of, says that the machine is short of something or its disk fails."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORTAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def reporting_dead_workers() -> Iterator[None]:
    """Makes one line of the death of a worker, which torch reports from a signal handler, wherever the program is.

    Raises:
        ShardError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ShardError(
            f"a process that reads images died: {reason_of(error)}; finished shards are kept, "
            "run the same again, with fewer workers if memory is short"
        ) from error


def check_image(image: Any, multiple_of: int) -> None:
    """Makes sure that a tokenizer can take an image, before it enters a batch with others.

    Raises:
        ShardError: it is not float (3, H, W), finite, in [-1, 1], with H and W multiples of ``multiple_of``.
    """
    if (
        not isinstance(image, Tensor)
        or not image.is_floating_point()
        or image.ndim != 3
        or image.shape[0] != 3
    ):
        told = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ShardError(f"an image must be a float tensor (3, H, W), it is {told}")
    height, width = image.shape[1:]
    if not height or not width or height % multiple_of or width % multiple_of:
        raise ShardError(f"its size {height} x {width} is not a multiple of {multiple_of}")
    low, high = (float(value) for value in torch.aminmax(image))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ShardError("it holds NaN or Inf")
    if low < -1 - RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ShardError(f"its values lie in [{low:.3g}, {high:.3g}], outside [-1, 1]")


def plain(value: Any) -> Any:
    """A dataset's field as JSON data.

    Raises:
        ShardError: it is none.
    """
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return plain(value.tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(v) for name, v in value.items()}
    raise ShardError(f"it has a field of type {type(value).__name__}, which a shard cannot hold")


def reason_of(error: BaseException) -> str:
    """An error in one line; its type too unless it is one of ours."""
    lines = str(error).strip().splitlines()
    told = lines[0] if lines else ""
    if isinstance(error, VistokError):
        return told
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


@dataclass(frozen=True)
class _Packed:
    """Samples without their images, and those images stacked by type and shape, with the positions that they go to.

    Tensors travel between processes as open files, of which a process may hold few; arrays travel as bytes.
    """

    samples: list[Loaded]
    images: list[tuple[list[int], NDArray[Any]]]
    seen: list[tuple[list[int], NDArray[Any]]]


def _packed(samples: list[Loaded]) -> _Packed:
    images = [None if s.image is None else as_bytes_if_exact(s.image) for s in samples]
    seen = [None if s.seen is None else s.seen.detach().cpu().float() for s in samples]
    bare = [s if s.image is None and s.seen is None else replace(s, image=None, seen=None) for s in samples]
    return _Packed(bare, _stacked(images), _stacked(seen))


def _stacked(images: Sequence[Tensor | None]) -> list[tuple[list[int], NDArray[Any]]]:
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, image in enumerate(images):
        if image is not None:
            places.setdefault((image.dtype, *image.shape), []).append(place)
    return [
        (chosen, torch.stack([image for place in chosen if (image := images[place]) is not None]).numpy())
        for chosen in places.values()
    ]


def _unpacked(packed: _Packed) -> Iterator[Loaded]:
    images, seen = _by_place(packed.images), _by_place(packed.seen)
    for place, sample in enumerate(packed.samples):
        if place in images:
            yield replace(sample, image=images[place])
        elif place in seen:
            yield replace(sample, seen=seen[place])
        else:
            yield sample


def _by_place(stacks: Sequence[tuple[list[int], NDArray[Any]]]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for places, stack in stacks:
        found.update(zip(places, torch.from_numpy(stack), strict=True))
    return found


def _as_it_is(item: Any) -> Any:
    return item
