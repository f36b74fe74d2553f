"""Encodes on this machine: worker processes read, this process runs the model, a thread writes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from vistok.freed_memory import keeping_freed_memory
from vistok.shards.container import container
from vistok.shards.failures import Failures
from vistok.shards.job import Job, evaluating
from vistok.shards.loading import load_images, reporting_dead_workers
from vistok.shards.precision import compiled
from vistok.shards.progress import Progress
from vistok.shards.samples import SampleEncoder
from vistok.shards.writer import ShardWriter, WriterThread


class LocalEngine:
    """One model in this process.

    Args:
        workers: Processes that read images, ahead of the model and across the borders of shards; 0 reads in this one.
    """

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers

    def run(self, job: Job, shards: Sequence[int], bar: Progress) -> float:
        """Commits all of the shards in order; see ``Engine``.

        Raises:
            ShardError: images that cannot be encoded, a worker that died.
            OSError: the disk refuses.
        """
        output, tokenizer = job.output, job.tokenizer
        failures = Failures(
            job.on_error,
            job.max_error_rate,
            output.part.num_samples(output.plan),
            job.num_skipped,
            output.out,
        )
        writer = ShardWriter(
            output.out,
            container(output.container),
            output.origin,
            output.plan,
            failures,
            job.latents.moments,
        )

        def on_batch(images: int, tokens: int) -> None:
            bar.skipped(failures.count)
            bar.advance(images, tokens)

        images = load_images(
            job.dataset, output.plan, shards, tokenizer.spec.multiple_of, self.workers, job.batch_size
        )
        with (
            keeping_freed_memory(),
            evaluating(tokenizer),
            reporting_dead_workers(),
            contextlib.closing(images),
        ):
            encoder = SampleEncoder(
                compiled(tokenizer) if job.compile else tokenizer, job.batch_size, latents=job.latents
            )
            with WriterThread(writer, on_batch) as thread:
                for shard, batch in encoder.batches(images, output.plan, shards):
                    thread.put(shard, batch)
        return encoder.seconds
