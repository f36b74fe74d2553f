"""The PyTorch path of the vector-quantization ops, in memory O(N + K): no N x K matrix at any time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import check_finite, computing_dtype
from vistok_kernels.threads import run_in_threads
from vistok_kernels.vq.halved import HalvedSearch, HalvedTable, num_rows_of, worth_halving
from vistok_kernels.vq.prepared import Frame, frame, half_norms, into, place

# A tile of scores is 1 MB, which stays in L2 between the product that writes it and the minimum that reads it.
_SCORES = 2**18
_CODES = 1024
_GROUP = 64
# Below this many scores a search takes about a millisecond, and starting threads would be a good part of it.
_WORTH_THREADS = 2**22
# Fewer latents than this do not repay rounding the codebook.
_WORTH_HALVING = 256


def nearest_code(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """Scores tiles of latents x codes with one matrix product each and keeps the lowest score of every group of codes.

    The position is then sought in the best group alone: a minimum is vectorised, one with its position is not. Where
    the processor multiplies bfloat16 and the product is the cost, see ``halved``.

    Floor: 4 D (N + K) + 8 N bytes, 2 N K (D + 1) flops. The half norm of a code rides along as the last channel,
    which costs a row of the product instead of a pass over the scores.

    Raises:
        ValueError: NaN or Inf.
    """
    blocks = _Blocks(latents, len(codebook), checking=True)

    def prepare() -> None:
        check_codebook(codebook)
        where = frame(codebook, metric)
        blocks.prepare(_table(codebook, where), where)

    run_in_threads(blocks.search, blocks.num_threads, prepare)
    return blocks.indices()


def check_codebook(codebook: Tensor) -> None:
    """Refuses NaN and Inf."""
    check_finite(codebook, "codebook values", "reinitialise it, and look for the update that broke it")


def check_latents(latents: Tensor) -> None:
    """Refuses NaN and Inf."""
    check_finite(
        latents,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )


def searcher(codebook: Tensor, metric: str) -> Callable[[Tensor], Tensor]:
    """The search of ``nearest_code`` in one codebook, prepared once for many sets of latents; values are the caller's to check."""
    where = frame(codebook, metric)
    table = _table(codebook, where)

    def search(latents: Tensor) -> Tensor:
        blocks = _Blocks(latents, len(codebook), checking=False)
        blocks.prepare(table, where)
        run_in_threads(blocks.search, blocks.num_threads)
        return blocks.indices()

    return search


class _Blocks:
    """Latents (N, D) in blocks of rows that threads share."""

    def __init__(self, latents: Tensor, num_codes: int, checking: bool) -> None:
        self.latents, self.found, self.checking = latents, dict[int, Tensor](), checking
        worth = latents.device.type == "cpu" and len(latents) * num_codes >= _WORTH_THREADS
        self.num_threads = torch.get_num_threads() if worth else 1

    def prepare(self, table: Tensor, where: Frame) -> None:
        """Settles where the search is and how it is cut."""
        self.table, self.where = table, where
        worth = len(self.latents) >= _WORTH_HALVING and worth_halving(table)
        self.halved = HalvedTable(table) if worth else None
        most = _SCORES // min(len(table), _CODES) if self.halved is None else num_rows_of(table)
        self.num_rows = min(most, max(1, -(-len(self.latents) // self.num_threads)))
        self.starts = range(0, len(self.latents), self.num_rows)
        # a shared iterator: whichever thread is free takes the next block
        self.left = iter(self.starts)

    def search(self) -> None:
        """The work of one thread."""
        search = _Search(self.table, self.where, self.num_rows)
        quick = None
        if self.halved is not None:
            quick = HalvedSearch(self.table, self.halved, self.where, self.num_rows)
        for start in self.left:
            rows = self.latents[start : start + self.num_rows]
            if self.checking:
                # here, where they are in the cache
                check_latents(rows)
            indices = None if quick is None else quick(rows)
            if indices is None:
                # codes too near each other for bfloat16 will be so in the next block, too
                quick, indices = None, search(rows)
            self.found[start] = indices

    def indices(self) -> Tensor:
        """The index of each latent, when all threads are done: (N,)."""
        empty = torch.empty(0, dtype=torch.int64, device=self.latents.device)
        return torch.cat([empty, *(self.found[start] for start in self.starts)])


def _table(codebook: Tensor, where: Frame) -> Tensor:
    """Negated codes in the frame with their half norms as last channel, in whole tiles: (K', D + 1), K' >= K."""
    num_codes, dim = codebook.shape
    width = _GROUP if num_codes <= _CODES else _CODES
    table = torch.zeros(-(-num_codes // width) * width, dim + 1, dtype=torch.float32, device=codebook.device)
    # a code that is not there is infinitely far
    table[num_codes:, dim] = torch.inf
    step = max(1, _SCORES // dim)
    for start in range(0, num_codes, step):
        part = place(codebook[start : start + step], where)
        torch.neg(part, out=table[start : start + len(part), :dim])
        table[start : start + len(part), dim] = half_norms(part, where)
    return table


class _Search:
    """The search of one thread, with the memory that it uses over and over: (R, D) -> (R,)."""

    def __init__(self, table: Tensor, where: Frame, num_rows: int) -> None:
        self.table, self.where = table, where
        self.width = min(len(table), _CODES)
        self.block = table.new_ones(num_rows, table.shape[1])
        self.tile = table.new_empty(num_rows, self.width)
        self.lowest = table.new_empty(num_rows, len(table) // _GROUP)

    def __call__(self, latents: Tensor) -> Tensor:
        count = len(latents)
        block, tile, lowest = self.block[:count], self.tile[:count], self.lowest[:count]
        into(block[:, :-1], latents, self.where)
        groups = tile.view(count, -1, _GROUP)
        for start in range(0, len(self.table), self.width):
            torch.mm(block, self.table[start : start + self.width].T, out=tile)
            first = start // _GROUP
            torch.amin(groups, dim=2, out=lowest[:, first : first + groups.shape[1]])
        group = lowest.argmin(dim=1)
        if self.width == len(self.table):
            scores = groups[torch.arange(count, device=group.device), group]
        else:
            codes = self.table.view(-1, _GROUP, self.table.shape[1]).index_select(0, group)
            scores = torch.bmm(codes, block.unsqueeze(2)).squeeze(2)
        return group * _GROUP + scores.argmin(dim=1)


def code_sums(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Adds every latent to the row of its code, in order: the same bits at every run on a CPU.

    Floor: D (4 N + 4 K) + 8 (N + K) bytes, N D flops.
    """
    sums = torch.zeros(codebook_size, latents.shape[1], dtype=torch.float32, device=latents.device)
    sums.index_add_(0, indices, latents.float())
    return torch.bincount(indices, minlength=codebook_size), sums


def follow(
    latents: Tensor,
    codebook: Tensor,
    indices: Tensor,
    add_up: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The results of a step whose indices are known, with ``code_sums`` as ``add_up`` does it; NaN codes for -1.

    Floor: 4 D (3 N + K) bytes, and those of ``code_sums``.
    """
    codes = F.embedding(indices.clamp(min=0), codebook)
    if indices.device.type == "cuda":
        codes = torch.where(indices.unsqueeze(1) >= 0, codes, torch.nan)
    dtype = torch.promote_types(computing_dtype(latents), codebook.dtype)
    error = (latents.to(dtype) - codes).square().sum()
    if add_up is None:
        return codes, indices, error, indices.new_empty(0), latents.new_empty(0, latents.shape[1]).float()
    return codes, indices, error, *add_up(latents, indices, len(codebook))
