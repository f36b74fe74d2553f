"""A dataset of images to token shards: each shard whole or absent, and a run that stopped goes on where it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vistok.data import ImageDataset
from vistok.errors import ShardError
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.batch_size import find_batch_size
from vistok.shards.claims import ALL, Slice, setting_up
from vistok.shards.commit import write_if_different
from vistok.shards.container import DEFAULT, Origin
from vistok.shards.container import container as container_named
from vistok.shards.directory import Description, last_made_with, note_made_with, writing_into
from vistok.shards.engines import Engine, LocalEngine
from vistok.shards.failures import OnError
from vistok.shards.fingerprint import fingerprint, soft_fields, tokenizer_device
from vistok.shards.job import Job, Output
from vistok.shards.latents import LatentFormat, LatentType
from vistok.shards.loading import KeyedImages
from vistok.shards.plan import Plan
from vistok.shards.precision import Precision, in_precision
from vistok.shards.progress import Progress
from vistok.shards.sidecar import INDEX_NAME, Sidecar, index_text, is_intact, read_committed
from vistok.shards.summary import EncodeSummary
from vistok.tokenizer import Tokenizer


class EncodingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM while encoding; the message says what is kept and how to go on.

    Not a VistokError, so that nothing that catches errors goes on against the user's wish.
    """


def encode(
    tokenizer: Tokenizer,
    dataset: KeyedImages,
    out: str | Path,
    *,
    batch_size: int | Literal["auto"] = 32,
    shard_size: int = 1000,
    on_error: OnError = "raise",
    max_error_rate: float = 0.05,
    progress: bool = True,
    workers: int = 0,
    container: str = DEFAULT,
    latents: LatentType = "float32",
    moments: bool = False,
    engine: Engine | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    part: Slice = ALL,
    remake: Collection[int] = (),
    verify: bool = False,
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
            ``auto`` takes that of the latest run here, or tries out which one is fast and fits.
        shard_size: Images per shard.
        on_error: ``raise`` at the first image that cannot be encoded, ``skip`` such images, or ``quarantine`` them.
        max_error_rate: Share of all images, in [0, 1], that may be skipped before the run ends.
        progress: Show a bar.
        workers: Processes that read images; 0 reads in this one. The shards are the same with any number.
        container: ``arrow``; ``arrow-packed``, with indices in ceil(log2 K) bits; or ``tar``, for pipelines that stream
            tars: at 256 tokens an image it takes five times the bytes of ``arrow``, and is several times slower to read.
        latents: Type that the latents of a continuous tokenizer are stored in: ``float32``, ``float16`` or ``bfloat16``.
        moments: Store mean and standard deviation of each latent, to draw from in training; False stores the means.
        engine: Who makes the shards; default: ``LocalEngine(workers)``.
        precision: Type of the encoder's weights and activations; None for the one that it has. Quantization is float32.
        compile: Compile the encoder by ``torch.compile``, which takes a minute first; it may change the last bits.
        part: One slice of the shards, where several jobs write into one directory at once, each its own.
        remake: Shards to make although they are committed; see ``repair``.
        verify: Read what is committed first, and make again each shard whose hash is not that of its record. Otherwise
            a shard is done if its record can be read and its size agrees.

    Raises:
        ShardError: a directory that cannot be used or belongs to another run, images that cannot be encoded, a full disk.
        EncodingInterrupted: Ctrl-C or SIGTERM; what is committed stays.
    """
    _check_options(tokenizer, batch_size, workers)
    if isinstance(dataset, ImageDataset):
        dataset = dataset.fitted_to(tokenizer.spec)
    plan = Plan.of(dataset.keys(), shard_size)
    box, storage = container_named(container), LatentFormat(latents, moments)
    storage.check(tokenizer.spec.kind != "discrete", box.name)
    marks = fingerprint(tokenizer, dataset, plan, box.name, storage, precision)
    origin = Origin(marks.sha256, tokenizer.spec, storage.dtype, RunColumns.read(marks.fields))
    output = Output(Path(out), plan, box.name, origin, part)
    run = engine if engine is not None else LocalEngine(workers)
    with writing_into(output.out, Description(plan, tokenizer.spec, marks), part):
        before = _committed(output, without=remake)
        if verify:
            before = {shard: record for shard, record in before.items() if is_intact(output.out, record)}
        todo = [shard for shard in part.shards(plan) if shard not in before]
        seconds = model_seconds = 0.0
        if todo:
            ready = in_precision(tokenizer, precision)
            job = Job(
                tokenizer=ready,
                dataset=dataset,
                output=output,
                batch_size=_batch_size(
                    output,
                    batch_size,
                    ready,
                    dataset,
                    {
                        "compile": compile,
                        "on_error": on_error,
                        "max_error_rate": max_error_rate,
                        "precision": marks.fields["dtype"],
                        "container": box.name,
                        "latents": latents,
                        "moments": moments,
                    },
                ),
                on_error=on_error,
                max_error_rate=max_error_rate,
                num_skipped=sum(len(s.skipped) for s in before.values()),
                compile=compile,
                latents=storage,
            )
            num_samples = part.num_samples(plan)
            bar = Progress(num_samples, sum(s.n_in for s in before.values()), shown=progress)
            with _interruptible(output), bar:
                model_seconds = run.run(job, todo, bar)
            seconds = bar.seconds
        sidecars = _committed(output)
        _write_index(output)
    return EncodeSummary.of(
        output.out, list(sidecars.values()), [sidecars[shard] for shard in todo], seconds, model_seconds
    )


def _check_options(tokenizer: Tokenizer, batch_size: int | str, workers: int) -> None:
    if tokenizer_device(tokenizer).type == "meta":
        raise ShardError(
            "the tokenizer is on device 'meta', which holds no weights: use another one, such as cpu"
        )
    if (batch_size != "auto" and (isinstance(batch_size, str) or batch_size < 1)) or workers < 0:
        raise ShardError(
            f"batch_size must be at least 1 or 'auto' and workers at least 0, they are {batch_size!r} and {workers}"
        )


def _batch_size(
    output: Output, asked: int | str, tokenizer: Tokenizer, dataset: KeyedImages, soft: dict[str, Any]
) -> int:
    """The batch size of this run, which is recorded before the first shard: a run that goes on takes the same."""
    with setting_up(output.out, output.part):
        if isinstance(asked, int):
            size = asked
        else:
            recorded = last_made_with(output.out).get("batch_size")
            # bool is an int, and a file can hold anything
            size = recorded if type(recorded) is int and recorded > 0 else find_batch_size(tokenizer, dataset)
        note_made_with(output.out, {**soft_fields(tokenizer_device(tokenizer), size), **soft})
        return size


def _write_index(output: Output) -> None:
    """Writes the index if all shards of all jobs are there: the last job does."""
    with setting_up(output.out, output.part):
        everything = replace(output, part=ALL)
        sidecars = _committed(everything)
        if len(sidecars) == output.plan.num_shards:
            ordered = [sidecars[shard] for shard in range(output.plan.num_shards)]
            write_if_different(output.out / INDEX_NAME, index_text(ordered, output.plan, output.fingerprint))


@contextlib.contextmanager
def _interruptible(output: Output) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run with a message; only the main thread can be told of signals."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt:
        # asked of the disk: the signal may have come between a commit and our taking note of it
        kept, part = _committed(output), output.part
        images = sum(s.n_in for s in kept.values())
        raise EncodingInterrupted(
            f"stopped: {len(kept)} of {len(part.shards(output.plan))} shards "
            f"({images} of {part.num_samples(output.plan)} images) "
            f"are kept in {output.out}; run the same again to go on"
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _committed(output: Output, without: Collection[int] = ()) -> dict[int, Sidecar]:
    """The records of the shards of a slice that are done, by shard."""
    found = {
        shard: read_committed(output.out, shard, output.fingerprint)
        for shard in output.part.shards(output.plan)
        if shard not in without
    }
    return {shard: sidecar for shard, sidecar in found.items() if sidecar is not None}


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
