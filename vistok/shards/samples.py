"""Images to samples of a shard: batched by size, encoded, put back into the order of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
from vistok.shards.latents import FLOAT32, LatentFormat
from vistok.shards.loading import Loaded, reason_of
from vistok.spec import StreamSpec, index_dtype
from vistok.tokenizer import Encoded, StreamTokens, Tokenizer


class SampleEncoder:
    """Encodes the images of one shard at a time.

    Args:
        tokenizer: In evaluation mode.
        batch_size: Images of equal size that are encoded together; batches never cross shards.
        failures: Told of each image that fails.
        on_batch: Called with the number of images and of tokens that are done.
        latents: How the latents of a continuous tokenizer are stored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        batch_size: int,
        failures: Failures,
        on_batch: Callable[[int, int], None] = lambda images, tokens: None,
        latents: LatentFormat = FLOAT32,
    ) -> None:
        self._tokenizer, self._batch_size, self._failures = tokenizer, batch_size, failures
        self._streams = {stream.name: stream for stream in tokenizer.spec.streams}
        self._device = tokenizer_device(tokenizer)
        self._on_batch, self._latents = on_batch, latents

    def samples(self, images: Iterable[Loaded], numbers: range) -> Iterator[Sample]:
        """The samples of a shard in the order of the plan, without those that failed.

        Args:
            images: Exactly those of ``numbers``, in order.
            numbers: Of the shard.
        """
        done: dict[int, Sample | None] = {}
        due = numbers.start
        for batch in same_size_batches(self._usable(images, done), _image_size, self._batch_size):
            done.update(self._encode(batch))
            while due in done:
                sample = done.pop(due)
                due += 1
                if sample is not None:
                    yield sample
        for number in range(due, numbers.stop):
            if done[number] is not None:
                raise AssertionError(f"sample {number} was encoded and not given")

    def _usable(self, images: Iterable[Loaded], done: dict[int, Sample | None]) -> Iterator[Loaded]:
        for image in images:
            if image.reason:
                self._fail(image, image.reason)
                done[image.number] = None
            else:
                yield image

    def _fail(self, image: Loaded, reason: str) -> None:
        self._failures.add(image, reason)
        self._on_batch(1, 0)

    def _encode(self, batch: list[Loaded]) -> dict[int, Sample | None]:
        """One batch; if the tokenizer refuses it, each image alone, to find out which one it is."""
        pixels = torch.stack([image.image for image in batch if image.image is not None])
        try:
            pixels = pixels.to(self._device)
            encode = self._tokenizer.moments if self._latents.moments else self._tokenizer.encode
            encoded = encode(pixels)
        except (VistokError, ValueError) as error:
            if len(batch) > 1:
                return {number: sample for image in batch for number, sample in self._encode([image]).items()}
            self._fail(batch[0], reason_of(error))
            return {batch[0].number: None}
        streams = {name: self._arrays(name, tokens) for name, tokens in encoded.items()}
        result: dict[int, Sample | None] = {}
        for place, image in enumerate(batch):
            sample = _sample(image, place, encoded, streams)
            broken = [name for name, array in sample.arrays.items() if not np.isfinite(array).all()]
            if broken:
                told = f"NaN, Inf or too large for {self._latents.dtype}"
                self._fail(image, f"its latents of stream {broken[0]} are {told}")
                result[image.number] = None
                continue
            self._on_batch(1, sum(len(array) for array in sample.arrays.values()))
            result[image.number] = sample
        return result

    def _arrays(self, name: str, tokens: StreamTokens) -> NDArray[Any]:
        if name not in self._streams:
            raise ShardError(f"the tokenizer gives stream {name!r}, which its spec does not name")
        if tokens.indices is None:
            return self._latents.rounded(tokens.values.detach().to("cpu", torch.float32).numpy())
        return narrow(tokens.indices, self._streams[name])


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


def _sample(image: Loaded, place: int, encoded: Encoded, streams: dict[str, NDArray[Any]]) -> Sample:
    arrays = {name: array[place] for name, array in streams.items()}
    if encoded.lengths is not None:
        main = next(iter(encoded))
        arrays[main] = arrays[main][: int(encoded.lengths[place])]
    meta = {
        **image.meta,
        "key": image.key,
        "size": list(encoded.size),
        "grid": {name: list(tokens.grid) for name, tokens in encoded.items()},
    }
    return Sample(image.number, arrays, meta)


def _image_size(image: Loaded) -> tuple[int, ...]:
    return () if image.image is None else tuple(image.image.shape)
