"""Token shards as a dataset: any sample by position or key, in any process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from vistok.errors import ShardError
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.container import Block, Container, OpenShard, Shape, container
from vistok.shards.directory import check_written, read_plan, read_spec
from vistok.shards.fingerprint import Fingerprint, check_tokenizer
from vistok.shards.latents import ChannelStatistics, combined
from vistok.shards.plan import Plan
from vistok.shards.rows import Rows
from vistok.shards.sidecar import Sidecar
from vistok.shards.stream import ShardStream
from vistok.tokenizer import Tokenizer

MAX_TABLES = 4096


class ShardDataset(Dataset[dict[str, Any]]):
    """The samples of all finished shards in a directory, in the order of the plan.

    An item is a dict of ``key``, ``size`` (H, W) in pixels, ``grid``, and either ``indices`` (N, S) int64 or ``latents``
    (N, D) float32, with their ``std`` (N, D) where moments were stored, beside what the images' dataset said (``label``,
    ``caption``, ...). Where there are several streams, or one that is not ``pixel``, there is also ``streams``: the same
    by stream name.

    A DataLoader with ``collate_fn=vistok.shards.collate`` reads a batch at once, which is many times faster than item by
    item. Arrow shards are mapped into memory, where all processes that read them share them.

    No file is held open between reads, so it works in DataLoader workers however they are started.

    Args:
        out: What ``encode`` wrote into.
        tokenizer: If given, must be the one that made the shards.

    Raises:
        ShardError: no shards there, damage that shows without reading them all, or another tokenizer.
    """

    def __init__(self, out: str | Path, tokenizer: Tokenizer | None = None) -> None:
        self.path = Path(out)
        check_written(self.path)
        self.fingerprint = Fingerprint.read(self.path)
        if tokenizer is not None:
            self.check(tokenizer)
        self.spec = read_spec(self.path, self.fingerprint)
        self._box: Container = container(str(self.fingerprint.fields.get("container")))
        self.sidecars = _committed(self.path, self.fingerprint)
        self._moments = self.fingerprint.fields.get("latents.moments") is True
        self._places = {shard_of(sidecar): place for place, sidecar in enumerate(self.sidecars)}
        self._starts = np.cumsum([0, *(sidecar.n_out for sidecar in self.sidecars)])
        self._tables: dict[int, OpenShard] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int | str) -> dict[str, Any]:
        if isinstance(index, str):
            index = self._position(index)
        item: dict[str, Any] = self.__getitems__([index])[0]
        return item

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        """Several items at once, by position; each shard is looked at once, whatever the order."""
        positions = np.asarray(indices, dtype=np.int64)
        if not len(positions):
            raise IndexError("no items are asked for: give at least one position")
        positions = np.where(positions < 0, positions + len(self), positions)
        outside = (positions < 0) | (positions >= len(self))
        if outside.any():
            raise IndexError(f"sample {indices[int(outside.argmax())]} of {len(self)}")
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        shards = np.searchsorted(self._starts, ascending, side="right") - 1
        cuts = np.flatnonzero(np.diff(shards)) + 1
        parts: list[Block] = []
        for piece, shard in zip(np.split(ascending, cuts), shards[np.r_[0, cuts]].tolist(), strict=True):
            parts.append(self._table(shard).take(piece - self._starts[shard]))
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return Rows(parts, places, self.spec, self._moments, self.path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def plan(self) -> Plan:
        """All keys that were to be encoded; read from the disk when first asked for."""
        return read_plan(self.path, self.fingerprint)

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Reason by key of the images that were left out."""
        return {key: reason for sidecar in self.sidecars for key, reason in sidecar.skipped.items()}

    @cached_property
    def latent_statistics(self) -> dict[str, ChannelStatistics]:
        """Mean and standard deviation of each channel of the continuous streams, over all samples."""
        return combined(sidecar.latents for sidecar in self.sidecars)

    @cached_property
    def shapes(self) -> NDArray[np.int32] | None:
        """A number for size and grids of each sample, by position; None where all surely have the same.

        Where it is not sure, all shards are looked into when it is first asked for.
        """
        columns = RunColumns.read(self.fingerprint.fields)
        if columns and columns.size and all(stream.topology != "ragged" for stream in self.spec.streams):
            return None
        known: dict[Shape, int] = {}
        found = np.empty(len(self), dtype=np.int32)
        for place in range(len(self.sidecars)):
            shapes = self._table(place).shapes()
            found[self._starts[place] : self._starts[place + 1]] = [
                known.setdefault(shape, len(known)) for shape in shapes
            ]
        return found if len(known) > 1 else None

    def keys(self) -> list[str]:
        """The key of each item, by position."""
        found: list[str] = []
        for sidecar in self.sidecars:
            numbers = self.plan.numbers(shard_of(sidecar))
            found += [
                key for key in self.plan.keys[numbers.start : numbers.stop] if key not in sidecar.skipped
            ]
        return found

    def check(self, tokenizer: Tokenizer) -> None:
        """Makes sure that a tokenizer is the one that made the shards.

        Raises:
            ShardError: it is not; the message names what differs.
        """
        check_tokenizer(self.fingerprint, tokenizer, self.path)

    def stream(
        self,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int | None = None,
        world: int | None = None,
        batch_size: int | None = None,
    ) -> ShardStream:
        """The same samples in sequence, or whole batches, split among ranks and workers, resumable; see ``ShardStream``."""
        counts = [sidecar.n_out for sidecar in self.sidecars]
        split = {"rank": rank, "world": world, "batch_size": batch_size}
        return ShardStream(self, counts, shuffle=shuffle, seed=seed, epoch=epoch, **split)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def _position(self, key: str) -> int:
        number = self.plan.number(key)
        place = self._places.get(number // self.plan.shard_size)
        if place is not None:
            numbers = self._table(place).numbers
            row = int(np.searchsorted(numbers, number))
            if row < len(numbers) and numbers[row] == number:
                return int(self._starts[place]) + row
        raise KeyError(key)

    def _table(self, place: int) -> OpenShard:
        if place not in self._tables:
            if len(self._tables) >= MAX_TABLES:
                self._tables.pop(next(iter(self._tables)))
            sidecar = self.sidecars[place]
            table = self._box.open(self.path / sidecar.file)
            if len(table.numbers) != sidecar.n_out:
                raise ShardError(
                    f"{self.path / sidecar.file} holds {len(table.numbers)} samples, its record says {sidecar.n_out}"
                )
            if table.fingerprint not in ("", sidecar.fingerprint):
                raise ShardError(f"{self.path / sidecar.file} belongs to another run: encode again")
            self._tables[place] = table
        return self._tables[place]


def open(out: str | Path, tokenizer: Tokenizer | None = None) -> ShardDataset:
    """Opens token shards for reading; see ``ShardDataset``."""
    return ShardDataset(out, tokenizer)


def shard_of(sidecar: Sidecar) -> int:
    """The number of the shard that a sidecar is about."""
    return int(Path(sidecar.file).stem.removeprefix("shard-"))


def _committed(out: Path, fingerprint: Fingerprint) -> list[Sidecar]:
    """All sidecars, after checking that each belongs here and its shard has the size that it says."""
    num_samples, shard_size = (
        fingerprint.fields.get(f"plan.{name}") for name in ("num_samples", "shard_size")
    )
    if not isinstance(num_samples, int) or not isinstance(shard_size, int) or shard_size < 1:
        raise ShardError(
            f"{out} is damaged: its fingerprint does not say how many samples and shards there are"
        )
    num_shards = -(-num_samples // shard_size)
    sidecars = []
    for path in sorted(out.glob("shard-*.json")):
        sidecar = Sidecar.read(path)
        if Path(sidecar.file).stem != path.stem or sidecar.fingerprint != fingerprint.sha256:
            raise ShardError(f"{path} belongs to another run: `vistok verify {out}` lists all that is wrong")
        try:
            size = (out / sidecar.file).stat().st_size
        except OSError as error:
            raise ShardError(
                f"{out / sidecar.file} cannot be read: {error.strerror}; encode again to restore it"
            ) from error
        if size != sidecar.bytes:
            raise ShardError(
                f"{out / sidecar.file} has {size} bytes, its record says {sidecar.bytes}; encode again"
            )
        sidecars.append(sidecar)
    if not sidecars:
        raise ShardError(f"{out} has no finished shard yet: run encode to the end")
    if len(sidecars) < num_shards:
        warnings.warn(
            f"{out}: only {len(sidecars)} of {num_shards} shards are finished; run encode again for the rest",
            stacklevel=4,
        )
    return sorted(sidecars, key=shard_of)
