"""How much of its codebook a tokenizer uses, from exact counts."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

# one int64 count per code: 512 MiB per group
MAX_CODEBOOK_SIZE = 1 << 26


class CodebookUsage:
    """Counts every index that it is shown, in int64, however many there are.

    No window limits it: a buffer of the last 65,536 indices, as elsewhere, cannot report a usage above 65,536 / K.
    Several objects over parts of a set ``merge`` into the same counts; processes do by ``reduce``.

    Args:
        codebook_size: K.
        num_groups: S; each group or stage has counts of its own, and the statistics are means over them.

    Raises:
        ValueError: a codebook too large to count densely.
    """

    def __init__(self, codebook_size: int, num_groups: int = 1) -> None:
        if not 0 < codebook_size <= MAX_CODEBOOK_SIZE:
            raise ValueError(
                f"a codebook of {codebook_size} codes cannot be counted: at most {MAX_CODEBOOK_SIZE} can"
            )
        self.codebook_size, self.num_groups = codebook_size, num_groups
        self.counts = torch.zeros(num_groups, codebook_size, dtype=torch.int64)

    def update(self, indices: Tensor) -> None:
        """Counts the indices of a batch.

        Shapes:
            indices (..., S) int64 in [0, K).

        Raises:
            ValueError: another number of groups, or an index outside the codebook.
        """
        if indices.shape[-1] != self.num_groups:
            raise ValueError(
                f"indices {tuple(indices.shape)} have {indices.shape[-1]} groups, not {self.num_groups}: S comes last"
            )
        per_group = indices.detach().reshape(-1, self.num_groups)
        if not per_group.numel():
            return
        low, high = int(per_group.min()), int(per_group.max())
        if low < 0 or high >= self.codebook_size:
            raise ValueError(f"index {low if low < 0 else high} is outside [0, {self.codebook_size})")
        for group in range(self.num_groups):
            self.counts[group] += torch.bincount(per_group[:, group], minlength=self.codebook_size).to(
                self.counts.device
            )

    def merge(self, other: CodebookUsage) -> None:
        """Adds the counts of another part of the set.

        Raises:
            ValueError: counts of another codebook.
        """
        if other.counts.shape != self.counts.shape:
            raise ValueError(
                f"counts of (S, K) = {tuple(other.counts.shape)} cannot be added to {tuple(self.counts.shape)}"
            )
        self.counts += other.counts

    def reduce(self) -> None:
        """Sums the counts over all processes, if a process group exists now. Collective; call it once, at the end."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        # NCCL reduces tensors on the GPU only
        device = (
            torch.device("cuda", torch.cuda.current_device())
            if dist.get_backend() == "nccl"
            else self.counts.device
        )
        counts = self.counts.to(device)
        dist.all_reduce(counts)
        self.counts = counts.to(self.counts.device)

    @property
    def num_tokens(self) -> int:
        """Indices counted per group."""
        return int(self.counts[0].sum())

    @property
    def usage(self) -> float:
        """Share of codes that occurred at least once, in [0, 1]; it cannot exceed num_tokens / K."""
        return float((self.counts > 0).double().mean())

    @property
    def num_dead(self) -> int:
        """Codes that never occurred, over all groups."""
        return int((self.counts == 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of index frequencies, in [1, K], averaged over groups; 0 before the first index."""
        total = self.num_tokens
        if not total:
            return 0.0
        frequencies = self.counts.double() / total
        return float(torch.special.entr(frequencies).sum(1).exp().mean())
