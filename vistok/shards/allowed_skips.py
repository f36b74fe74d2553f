"""Which images a repair may leave out: those that the damaged shards' own records leave out, and no others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vistok.errors import ShardError
from vistok.shards.loading import KeyedImages, Loaded, load_images, reporting_dead_workers
from vistok.shards.plan import Plan
from vistok.shards.progress import Progress
from vistok.shards.sidecar import Sidecar, shard_name, sidecar_path


@dataclass(frozen=True)
class AllowedSkips:
    """What the records of a run say was left out, before any of its shards is made again.

    Args:
        plan: Of the run.
        recorded: Keys left out, by shard, of the shards whose record is in order.
        max_error_rate: Share of all images, in [0, 1], that the run allowed; it binds the shards whose record is lost.
    """

    plan: Plan
    recorded: Mapping[int, frozenset[str]]
    max_error_rate: float

    @classmethod
    def read(cls, out: Path, plan: Plan, fingerprint: str, max_error_rate: float) -> AllowedSkips:
        """Of the records in a directory; one that is damaged, or of another run or shard, counts as lost."""
        recorded = {}
        for shard in range(plan.num_shards):
            try:
                sidecar = Sidecar.read(sidecar_path(out, shard))
            except ShardError:
                continue
            own = sidecar.fingerprint == fingerprint and sidecar.file.startswith(shard_name(shard, "."))
            if own and set(sidecar.skipped) <= _keys(plan, shard):
                recorded[shard] = frozenset(sidecar.skipped)
        num_recorded = sum(map(len, recorded.values()))
        # half an image more, so that rounding never forbids the last of them
        return cls(
            plan, recorded, min(1.0, max(max_error_rate, (num_recorded + 0.5) / max(plan.num_samples, 1)))
        )

    @property
    def any(self) -> bool:
        """Whether the records leave out anything."""
        return any(self.recorded.values())

    def allow(self, shard: int, key: str) -> bool:
        """Whether an image may be left out."""
        return shard not in self.recorded or key in self.recorded[shard]

    def check(
        self,
        dataset: KeyedImages,
        shards: Collection[int],
        multiple_of: int,
        workers: int = 0,
        progress: bool = True,
    ) -> None:
        """Reads the images of shards that are to be made again, while the damaged ones are still in place.

        Raises:
            ShardError: an image that the shard held cannot be read any more; or too many of shards without a record.
        """
        ordered = sorted(shards)
        num_failed = sum(len(keys) for shard, keys in self.recorded.items() if shard not in shards)
        images = load_images(dataset, self.plan, ordered, multiple_of, workers)
        total = sum(len(self.plan.numbers(shard)) for shard in ordered)
        with reporting_dead_workers(), Progress(total, what="read", shown=progress) as bar:
            for sample in images:
                bar.advance(1)
                if sample.reason:
                    num_failed += 1
                    self._refuse(sample, num_failed)

    def _refuse(self, sample: Loaded, num_failed: int) -> None:
        shard = sample.number // self.plan.shard_size
        if not self.allow(shard, sample.key):
            raise ShardError(
                f"image {sample.key!r} of damaged shard {shard} cannot be read any more: {sample.reason}; "
                "the shard is left as it is, put the image back and repair again"
            )
        if num_failed > self.max_error_rate * self.plan.num_samples:
            raise ShardError(
                f"shard {shard} has lost its record, and with image {sample.key!r} more cannot be read than "
                f"max_error_rate={self.max_error_rate:g} of its run allows: {sample.reason}; the shard is left as it is"
            )

    def lost(self, out: Path, shards: Collection[int]) -> tuple[str, ...]:
        """Keys that shards made again leave out and that no record of before did."""
        found: list[str] = []
        for shard in sorted(shards):
            known = self.recorded.get(shard, frozenset())
            found += sorted(set(Sidecar.read(sidecar_path(out, shard)).skipped) - known)
        return tuple(found)


def _keys(plan: Plan, shard: int) -> set[str]:
    numbers = plan.numbers(shard)
    return set(plan.keys[numbers.start : numbers.stop])
