"""Images to samples of a shard: batched by size, encoded, put back into the order of the plan."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vistok.errors import ShardError, VistokError
from vistok.shards.batching import SameSizeBatches
from vistok.shards.container import Sample
from vistok.shards.failures import Failures
from vistok.shards.fingerprint import tokenizer_device
from vistok.shards.latents import FLOAT32, LatentFormat
from vistok.shards.loading import Loaded, reason_of
from vistok.shards.pixels import to_floats
from vistok.shards.plan import Plan
from vistok.spec import StreamSpec, index_dtype
from vistok.tokenizer import Encoded, StreamTokens, Tokenizer

LANES_AT_LEAST, IMAGES_AT_ONCE = 8, 256


@dataclass(frozen=True)
class EncodedBatch:
    """Images of one size and their tokens, as they leave the model.

    Args:
        images: Of the batch.
        arrays: By stream name, (B, N, ...) on the CPU: indices in their smallest type, or latents as they will be read back.
        encoded: What the tokenizer gave: grids, size and lengths are read from it.
        latents: Type that latents are stored in.
    """

    images: list[Loaded]
    arrays: dict[str, NDArray[Any]]
    encoded: Encoded
    latents: str = "float32"


@dataclass(frozen=True)
class FailedImage:
    """An image that has no tokens, and why."""

    image: Loaded
    reason: str


class SampleEncoder:
    """Runs the model over the images of shards; ``in_order`` makes samples of what it gives.

    On a CPU several batches run at once, each in a thread of its own (a *lane*) whose operations are never split further:
    how sums are split among threads decides their last bits, so that machines with more cores, or actors with fewer,
    would make other shards. It is faster too: where operations are split, all threads wait for the slowest at the end of
    each, which costs most where they are small, or where other processes, such as those that read images, want a core now
    and then. What a lane computes depends on no other, so the number of lanes changes no bit.

    Args:
        tokenizer: In evaluation mode.
        batch_size: Images of equal size that are encoded together; batches never cross shards.
        lanes: Batches at once; default on a CPU: one a thread of PyTorch, unless they are more than ``LANES_AT_LEAST`` and would
            hold more than ``IMAGES_AT_ONCE``; one elsewhere.
        latents: How the latents of a continuous tokenizer are stored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        batch_size: int,
        lanes: int | None = None,
        latents: LatentFormat = FLOAT32,
    ) -> None:
        self._tokenizer, self._batch_size = tokenizer, batch_size
        self._latents = latents
        self._streams = {stream.name: stream for stream in tokenizer.spec.streams}
        self._device = tokenizer_device(tokenizer)
        self._lanes = num_lanes(self._device, batch_size) if lanes is None else lanes
        # one slot a thread: a sum that threads share would lose some
        self._seconds: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """Time that the model took so far, with the way of tokens to the CPU, on average over the lanes."""
        return sum(list(self._seconds.values())) / self._lanes

    def batches(
        self, images: Iterator[Loaded], plan: Plan, shards: Iterable[int]
    ) -> Iterator[tuple[int, EncodedBatch | FailedImage | None]]:
        """Each image of some shards once, in a batch or as failed, with the number of its shard; None ends a shard.

        Args:
            images: Of these shards, in order.
            plan: Which image is in which shard.
            shards: Their numbers.
        """
        work = self._work(images, plan, shards)
        if self._lanes == 1 and (self._device.type != "cpu" or torch.get_num_threads() == 1):
            for shard, item in work:
                if isinstance(item, list):
                    yield from ((shard, result) for result in self._encode(item))
                else:
                    yield shard, item
            return
        yield from self._in_lanes(work)

    def _work(
        self, images: Iterator[Loaded], plan: Plan, shards: Iterable[int]
    ) -> Iterator[tuple[int, list[Loaded] | FailedImage | None]]:
        for shard in shards:
            batches = SameSizeBatches(_image_size, self._batch_size)
            for image in itertools.islice(images, len(plan.numbers(shard))):
                if image.reason:
                    yield shard, FailedImage(image, image.reason)
                else:
                    yield from ((shard, batch) for batch in batches.add(image))
            yield from ((shard, batch) for batch in batches.rest())
            yield shard, None

    def _in_lanes(
        self, work: Iterator[tuple[int, list[Loaded] | FailedImage | None]]
    ) -> Iterator[tuple[int, EncodedBatch | FailedImage | None]]:
        threads = torch.get_num_threads()
        pool = lanes_pool(self._lanes)
        pending: deque[tuple[int, _Pending]] = deque()
        num_waiting = 0  # ends of shards, which hold nothing, are not counted
        try:
            for shard, item in work:
                if isinstance(item, FailedImage) and (not pending or pending[0][0] == shard):
                    yield shard, item  # a run that ends at it shall not read on
                    continue
                pending.append((shard, pool.submit(self._encode, item) if isinstance(item, list) else item))
                num_waiting += item is not None
                # one more than there are lanes, so that none waits for images that are there already
                while pending and (_is_there(pending[0][1]) or num_waiting > self._lanes + 1):
                    num_waiting -= pending[0][1] is not None
                    yield from _results(*pending.popleft())
            while pending:
                yield from _results(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            # what a thread sets is the default of threads that are born later
            torch.set_num_threads(threads)

    def _encode(self, batch: list[Loaded]) -> list[EncodedBatch | FailedImage]:
        """One batch; if the tokenizer refuses it, each image alone, to find out which one it is."""
        with torch.inference_mode(), _in_one_line(batch):
            pixels = self._pixels(batch)
            start = time.perf_counter()
            try:
                encoded = (
                    self._tokenizer.moments(pixels)
                    if self._latents.moments
                    else self._tokenizer.encode(pixels, sample=False)
                )
            except (VistokError, ValueError) as error:
                if len(batch) > 1:
                    return [result for image in batch for result in self._encode([image])]
                return [FailedImage(batch[0], reason_of(error))]
            # what waits for the device is in here: tokens are on their way to the CPU
            arrays = {name: self._array(name, tokens) for name, tokens in encoded.items()}
            thread = threading.get_ident()
            self._seconds[thread] = self._seconds.get(thread, 0.0) + time.perf_counter() - start
        return [EncodedBatch(batch, arrays, encoded, self._latents.dtype)]

    def _pixels(self, batch: list[Loaded]) -> Tensor:
        images = [image.image for image in batch if image.image is not None]
        if len({image.dtype for image in images}) > 1:
            images = [to_floats(image) for image in images]
        return to_floats(torch.stack(images).to(self._device))

    def _array(self, name: str, tokens: StreamTokens) -> NDArray[Any]:
        if name not in self._streams:
            raise ShardError(f"the tokenizer gives stream {name!r}, which its spec does not name")
        if tokens.indices is None:
            return self._latents.rounded(tokens.values.detach().to("cpu", torch.float32).numpy())
        return narrow(tokens.indices, self._streams[name])


def num_lanes(device: torch.device, batch_size: int) -> int:
    """Batches that are encoded at once, where nothing else was asked for."""
    most = max(LANES_AT_LEAST, IMAGES_AT_ONCE // batch_size)
    return min(torch.get_num_threads(), most) if device.type == "cpu" else 1


def lanes_pool(lanes: int) -> ThreadPoolExecutor:
    """Threads whose operations are never split; what one sets is the default of threads that are born later."""
    return ThreadPoolExecutor(lanes, "vistok-lane", initializer=torch.set_num_threads, initargs=(1,))


@contextlib.contextmanager
def _in_one_line(batch: list[Loaded]) -> Iterator[None]:
    """Tells of a model that lacks memory; what else goes wrong in a model passes.

    Raises:
        ShardError: it does; that is no image's fault, so none is skipped for it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)):
            raise
        size = " x ".join(map(str, _image_size(batch[0])[1:]))
        images = "an image" if len(batch) == 1 else f"{len(batch)} images at once"
        remedy = "use another device" if len(batch) == 1 else "lower batch_size (--batch-size)"
        raise ShardError(
            f"no memory to encode {images} of {size}: {reason_of(error)}; {remedy}; finished shards are kept"
        ) from error


_Pending = Future[list[EncodedBatch | FailedImage]] | FailedImage | None


def _is_there(pending: _Pending) -> bool:
    return not isinstance(pending, Future) or pending.done()


def _results(shard: int, done: _Pending) -> Iterator[tuple[int, EncodedBatch | FailedImage | None]]:
    if isinstance(done, Future):
        yield from ((shard, result) for result in done.result())
    else:
        yield shard, done


def in_order(
    batches: Iterable[EncodedBatch | FailedImage],
    numbers: range,
    failures: Failures,
    on_batch: Callable[[int, int], None] = lambda images, tokens: None,
) -> Iterator[Sample]:
    """The samples of a shard in the order of the plan, without those that failed.

    Args:
        batches: Of exactly the images of ``numbers``.
        numbers: Of the shard.
        failures: Told of each image that fails.
        on_batch: Called with the number of images and of tokens that are done.
    """
    done: dict[int, Sample | None] = {}
    due = numbers.start
    for batch in batches:
        if isinstance(batch, FailedImage):
            failures.add(batch.image, batch.reason)
            done[batch.image.number] = None
            on_batch(1, 0)
        else:
            samples = _samples(batch, failures)
            done.update(samples)
            on_batch(len(samples), _num_tokens(samples.values()))
        while due in done:
            sample = done.pop(due)
            due += 1
            if sample is not None:
                yield sample
    if due != numbers.stop:
        raise AssertionError(f"sample {due} was read and not given")


def _samples(batch: EncodedBatch, failures: Failures) -> dict[int, Sample | None]:
    encoded, arrays = batch.encoded, batch.arrays
    broken = _broken(arrays)  # rounding keeps NaN and Inf
    size, grid = list(encoded.size), {name: list(tokens.grid) for name, tokens in encoded.items()}
    lengths = None if encoded.lengths is None else encoded.lengths.tolist()
    main = next(iter(encoded))
    found: dict[int, Sample | None] = {}
    for place, image in enumerate(batch.images):
        if place in broken:
            told = f"NaN, Inf or too large for {batch.latents}"
            failures.add(image, f"its latents of stream {broken[place]} are {told}")
            found[image.number] = None
            continue
        own = {name: array[place] for name, array in arrays.items()}
        if lengths is not None:
            own[main] = own[main][: lengths[place]]
        meta = {**image.meta, "key": image.key, "size": size, "grid": grid}
        found[image.number] = Sample(image.number, own, meta)
    return found


def _broken(arrays: dict[str, NDArray[Any]]) -> dict[int, str]:
    """Position in the batch of samples that are not finite, and the stream where it shows."""
    found: dict[int, str] = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(len(array), -1).all(1)
            found.update({int(place): name for place in np.flatnonzero(~finite)} | found)
    return found


def _num_tokens(samples: Iterable[Sample | None]) -> int:
    return sum(len(array) for sample in samples if sample is not None for array in sample.arrays.values())


def narrow(indices: Tensor, stream: StreamSpec) -> NDArray[Any]:
    """Indices in the smallest unsigned type that holds the codebook; they never wrap.

    Raises:
        ShardError: an index outside [0, codebook_size).
    """
    if stream.codebook_size is None:
        raise ShardError(
            f"stream {stream.name} has indices but no codebook size: the tokenizer's spec must state it"
        )
    array = indices.detach().cpu().numpy()
    if array.size and (int(array.min()) < 0 or int(array.max()) >= stream.codebook_size):
        raise ShardError(
            f"the tokenizer gave an index outside [0, {stream.codebook_size}) in stream {stream.name}: "
            "its spec and its quantizer disagree"
        )
    return array.astype(index_dtype(stream.codebook_size))


def _image_size(image: Loaded) -> tuple[int, ...]:
    return () if image.image is None else tuple(image.image.shape)
