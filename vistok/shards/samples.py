"""Images to samples of a shard: batched by size, encoded, put back into the order of the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vistok.errors import ShardError, VistokError
from vistok.shards.batching import same_size_batches
from vistok.shards.container import Sample
from vistok.shards.failures import Failures
from vistok.shards.fingerprint import tokenizer_device
from vistok.shards.loading import Loaded, reason_of
from vistok.shards.pixels import to_floats
from vistok.spec import StreamSpec, index_dtype
from vistok.tokenizer import Encoded, StreamTokens, Tokenizer


@dataclass(frozen=True)
class EncodedBatch:
    """Images of one size and their tokens, as they leave the model.

    Args:
        images: Of the batch.
        arrays: By stream name, (B, N, ...) on the CPU: indices in their smallest type, or latents in float32.
        encoded: What the tokenizer gave: grids, size and lengths are read from it.
    """

    images: list[Loaded]
    arrays: dict[str, NDArray[Any]]
    encoded: Encoded


@dataclass(frozen=True)
class FailedImage:
    """An image that has no tokens, and why."""

    image: Loaded
    reason: str


class SampleEncoder:
    """Runs the model over the images of one shard at a time; ``in_order`` makes samples of what it gives.

    Args:
        tokenizer: In evaluation mode.
        batch_size: Images of equal size that are encoded together; batches never cross shards.
    """

    def __init__(self, tokenizer: Tokenizer, batch_size: int) -> None:
        self._tokenizer, self._batch_size = tokenizer, batch_size
        self._streams = {stream.name: stream for stream in tokenizer.spec.streams}
        self._device = tokenizer_device(tokenizer)
        self.seconds = 0.0
        """Time that the model took so far, with the way of tokens to the CPU."""

    def batches(self, images: Iterable[Loaded]) -> Iterator[EncodedBatch | FailedImage]:
        """Each image of a shard once, in a batch or as failed."""
        failed: list[FailedImage] = []
        for batch in same_size_batches(_usable(images, failed), _image_size, self._batch_size):
            yield from failed
            failed.clear()
            yield from self._encode(batch)
        yield from failed

    def _encode(self, batch: list[Loaded]) -> Iterator[EncodedBatch | FailedImage]:
        """One batch; if the tokenizer refuses it, each image alone, to find out which one it is."""
        pixels = self._pixels(batch)
        start = time.perf_counter()
        try:
            encoded = self._tokenizer.encode(pixels, sample=False)
        except (VistokError, ValueError) as error:
            if len(batch) > 1:
                for image in batch:
                    yield from self._encode([image])
            else:
                yield FailedImage(batch[0], reason_of(error))
            return
        # what waits for the device is in here: tokens are on their way to the CPU
        arrays = {name: self._array(name, tokens) for name, tokens in encoded.items()}
        self.seconds += time.perf_counter() - start
        yield EncodedBatch(batch, arrays, encoded)

    def _pixels(self, batch: list[Loaded]) -> Tensor:
        images = [image.image for image in batch if image.image is not None]
        if len({image.dtype for image in images}) > 1:
            images = [to_floats(image) for image in images]
        return to_floats(torch.stack(images).to(self._device))

    def _array(self, name: str, tokens: StreamTokens) -> NDArray[Any]:
        if name not in self._streams:
            raise ShardError(f"the tokenizer gives stream {name!r}, which its spec does not name")
        if tokens.indices is None:
            return tokens.values.detach().to("cpu", torch.float32).numpy()
        return narrow(tokens.indices, self._streams[name])


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
    broken = _broken(arrays)
    size, grid = list(encoded.size), {name: list(tokens.grid) for name, tokens in encoded.items()}
    lengths = None if encoded.lengths is None else encoded.lengths.tolist()
    main = next(iter(encoded))
    found: dict[int, Sample | None] = {}
    for place, image in enumerate(batch.images):
        if place in broken:
            failures.add(image, f"its latents of stream {broken[place]} are NaN or Inf")
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


def _usable(images: Iterable[Loaded], failed: list[FailedImage]) -> Iterator[Loaded]:
    for image in images:
        if image.reason:
            failed.append(FailedImage(image, image.reason))
        else:
            yield image


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
