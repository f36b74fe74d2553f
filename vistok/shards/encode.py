"""A dataset of images to token shards: each shard whole or absent, and a run that stopped goes on where it was."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vistok.data import ImageDataset
from vistok.errors import ShardError
from vistok.shards.commit import replacing, write_file, write_if_different
from vistok.shards.container import DEFAULT, Container, Origin
from vistok.shards.container import container as container_named
from vistok.shards.directory import describe, note_made_with, writing_into
from vistok.shards.failures import Failures, OnError
from vistok.shards.fingerprint import fingerprint, soft_fields, tokenizer_device
from vistok.shards.latents import LatentFormat, LatentStatistics, LatentType
from vistok.shards.loading import KeyedImages, Loaded, load_images, reporting_dead_workers
from vistok.shards.plan import Plan
from vistok.shards.progress import Progress
from vistok.shards.samples import SampleEncoder
from vistok.shards.sidecar import INDEX_NAME, Sidecar, index_text, read_committed, shard_name, sidecar_path
from vistok.tokenizer import Tokenizer


class EncodingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM while encoding; the message says what is kept and how to go on.

    Not a VistokError, so that nothing that catches errors goes on against the user's wish.
    """


@dataclass(frozen=True)
class EncodeSummary:
    """What is in the output directory after a run; always num_images = num_encoded + num_skipped.

    Args:
        out: The directory.
        num_images: Images of the plan.
        num_encoded: Images that the shards hold.
        num_skipped: Images that they do not hold; each shard's sidecar tells why.
        num_shards: Shards of the plan, all committed.
        num_shards_new: Those that this run made.
        num_tokens: Positions of all images and streams.
        bytes: Size of all shards.
        seconds: Time that this run took for the shards that it made.
        images_per_second: Speed of this run; 0 if it made nothing.
    """

    out: Path
    num_images: int
    num_encoded: int
    num_skipped: int
    num_shards: int
    num_shards_new: int
    num_tokens: int
    bytes: int
    seconds: float
    images_per_second: float

    def __str__(self) -> str:
        skipped = f", {self.num_skipped} skipped" if self.num_skipped else ""
        text = (
            f"{self.out}: {self.num_encoded} of {self.num_images} images{skipped} in {self.num_shards} shards, "
            f"{self.num_tokens} tokens, {self.bytes / 1e6:.1f} MB"
        )
        if not self.num_shards_new:
            return f"{text}; all of it was there already"
        return f"{text}; {self.num_shards_new} new in {self.seconds:.1f} s ({self.images_per_second:.1f} images/s)"


def encode(
    tokenizer: Tokenizer,
    dataset: KeyedImages,
    out: str | Path,
    *,
    batch_size: int = 32,
    shard_size: int = 1000,
    on_error: OnError = "raise",
    max_error_rate: float = 0.05,
    progress: bool = True,
    workers: int = 0,
    container: str = DEFAULT,
    latents: LatentType = "float32",
    moments: bool = False,
) -> EncodeSummary:
    """Encodes all images of a dataset into token shards.

    Run again after a crash it keeps the shards that are committed and makes the rest, to the same bytes as a run that
    was never stopped. Continuous latents are the mode, not a draw.

    Args:
        tokenizer: Encodes on the device and in the type that its weights have.
        dataset: Images with unique keys; see ``KeyedImages``. A dataset of ``vistok.data`` that was given no image policy
            takes the tokenizer's.
        out: A directory that is new, empty, or holds an earlier part of this same job.
        batch_size: Images of equal size encoded together; it may change the last bits, so keep it when resuming.
        shard_size: Images per shard.
        on_error: ``raise`` at the first image that cannot be encoded, ``skip`` such images, or ``quarantine`` them.
        max_error_rate: Share of all images, in [0, 1], that may be skipped before the run ends.
        progress: Show a bar.
        workers: Processes that read images; 0 reads in this one. The shards are the same with any number.
        container: ``arrow``; ``arrow-packed``, with indices in ceil(log2 K) bits; or ``tar``, for pipelines that stream
            tars: at 256 tokens an image it takes five times the bytes of ``arrow``, and is several times slower to read.
        latents: Type that the latents of a continuous tokenizer are stored in: ``float32``, ``float16`` or ``bfloat16``.
        moments: Store mean and standard deviation of each latent, to draw from in training; False stores the means.

    Raises:
        ShardError: a directory that cannot be used or belongs to another run, images that cannot be encoded, a full disk.
        EncodingInterrupted: Ctrl-C or SIGTERM; what is committed stays.
    """
    _check_options(batch_size, workers)
    if isinstance(dataset, ImageDataset):
        dataset = dataset.fitted_to(tokenizer.spec)
    out = Path(out)
    plan = Plan.of(dataset.keys(), shard_size)
    box, storage = container_named(container), LatentFormat(latents, moments)
    storage.check(tokenizer.spec.kind != "discrete", box.name)
    marks = fingerprint(tokenizer, dataset, plan, box.name, storage)
    with writing_into(out):
        describe(out, plan, tokenizer.spec, marks)
        sidecars = _committed(out, plan, marks.sha256)
        todo = [shard for shard in range(plan.num_shards) if shard not in sidecars]
        skipped = sum(len(s.skipped) for s in sidecars.values())
        failures = Failures(on_error, max_error_rate, plan.num_samples, skipped, out)
        if todo:
            note_made_with(out, soft_fields(tokenizer_device(tokenizer), batch_size))
        writer = ShardWriter(out, box, Origin(marks.sha256, tokenizer.spec, storage.dtype), storage.moments)
        bar = Progress(plan.num_samples, sum(s.n_in for s in sidecars.values()), shown=progress)
        with _interruptible(out, plan, marks.sha256), bar:
            encoder = SampleEncoder(tokenizer, batch_size, failures, _counting(bar, failures), storage)
            images = load_images(dataset, plan, todo, tokenizer.spec.multiple_of, workers)
            with evaluating(tokenizer), reporting_dead_workers(), contextlib.closing(images):
                for shard in todo:
                    sidecars[shard] = writer.write(shard, plan, encoder, images, failures)
            ordered = [sidecars[shard] for shard in range(plan.num_shards)]
            write_if_different(out / INDEX_NAME, index_text(ordered, plan, marks.sha256))
        return _summary(out, plan, ordered, len(todo), bar)


def _check_options(batch_size: int, workers: int) -> None:
    if batch_size < 1 or workers < 0:
        raise ShardError(
            f"batch_size must be at least 1 and workers at least 0, they are {batch_size} and {workers}"
        )


class ShardWriter:
    """Commits shards: the file first, then the sidecar that says it is there.

    Args:
        out: The output directory.
        box: The container.
        origin: What the shards say of where they come from; each sidecar carries its fingerprint.
        moments: Whether latents are stored as means and standard deviations.
    """

    def __init__(self, out: Path, box: Container, origin: Origin, moments: bool = False) -> None:
        self._out, self._box, self._origin, self._moments = out, box, origin, moments

    def write(
        self, shard: int, plan: Plan, encoder: SampleEncoder, images: Iterator[Loaded], failures: Failures
    ) -> Sidecar:
        """Takes one shard's images from ``images`` and commits it; an exception commits nothing."""
        numbers = plan.numbers(shard)
        num_tokens, statistics = 0, LatentStatistics(self._moments)
        path = self._out / shard_name(shard, self._box.suffix)
        # a record without its shard, or with a damaged one, must not vouch for the new file before it is whole
        sidecar_path(self._out, shard).unlink(missing_ok=True)
        with replacing(path) as file:

            def counted() -> Iterator[Any]:
                nonlocal num_tokens
                for sample in encoder.samples(itertools.islice(images, len(numbers)), numbers):
                    num_tokens += sum(len(array) for array in sample.arrays.values())
                    statistics.add(sample.arrays)
                    yield sample

            n_out = self._box.write(file, counted(), self._origin)
            skipped = failures.take()
            if n_out + len(skipped) != len(numbers):
                raise ShardError(
                    f"{path} would hold {n_out} of {len(numbers)} images and explain {len(skipped)}"
                )
        sidecar = Sidecar(
            file=path.name,
            n_in=len(numbers),
            n_out=n_out,
            skipped=skipped,
            num_tokens=num_tokens,
            bytes=file.size,
            sha256=file.sha256,
            fingerprint=self._origin.fingerprint,
            latents=statistics.to_json_data(),
        )
        write_file(sidecar_path(self._out, shard), sidecar.to_json())
        return sidecar


@contextlib.contextmanager
def evaluating(tokenizer: Tokenizer) -> Iterator[None]:
    """Evaluation and inference mode; each submodule gets its own mode back."""
    modes = {module: module.training for module in tokenizer.modules()}
    tokenizer.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _interruptible(out: Path, plan: Plan, fingerprint: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run with a message; only the main thread can be told of signals."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt:
        # asked of the disk: the signal may have come between a commit and our taking note of it
        kept = _committed(out, plan, fingerprint)
        images = sum(s.n_in for s in kept.values())
        raise EncodingInterrupted(
            f"stopped: {len(kept)} of {plan.num_shards} shards ({images} of {plan.num_samples} images) "
            f"are kept in {out}; run the same again to go on"
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _committed(out: Path, plan: Plan, fingerprint: str) -> dict[int, Sidecar]:
    """The records of the shards that are done, by shard."""
    found = {shard: read_committed(out, shard, fingerprint) for shard in range(plan.num_shards)}
    return {shard: sidecar for shard, sidecar in found.items() if sidecar is not None}


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _counting(bar: Progress, failures: Failures) -> Any:
    def advance(images: int, tokens: int) -> None:
        bar.skipped(failures.count)
        bar.advance(images, tokens)

    return advance


def _summary(out: Path, plan: Plan, sidecars: list[Sidecar], num_new: int, bar: Progress) -> EncodeSummary:
    return EncodeSummary(
        out=out,
        num_images=plan.num_samples,
        num_encoded=sum(s.n_out for s in sidecars),
        num_skipped=sum(len(s.skipped) for s in sidecars),
        num_shards=plan.num_shards,
        num_shards_new=num_new,
        num_tokens=sum(s.num_tokens for s in sidecars),
        bytes=sum(s.bytes for s in sidecars),
        seconds=bar.seconds,
        images_per_second=bar.images / bar.seconds if bar.images else 0.0,
    )
