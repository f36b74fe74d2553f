"""The PyTorch path of the vector-quantization ops, in memory O(N + K): no N x K matrix at any time."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok_kernels.checks import computing_dtype
from vistok_kernels.vq.prepared import FARTHEST, prepare

# A thread's share of a tile of scores is 2 MB, which stays in or near L2; larger tiles mean fewer calls, and with them
# fewer of the barriers that hurt on a busy machine.
_SCORES_PER_THREAD = 2**19
_MAX_ROWS = 4096
_CODES = 8192
_GROUP = 128


def nearest_code(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """Scores tiles of latents x codes with one matrix product each and keeps the best index of every row.

    Floor: 4 D (N + K) + 8 N bytes, 2 N K (D + 1) flops. The half norm of a code rides along as the last channel,
    which costs a row of the product instead of a pass over the scores.
    """
    ready = prepare(codebook, metric)
    num_latents, dim = latents.shape
    num_codes = codebook.shape[0]
    width = min(_CODES, -(-num_codes // _GROUP) * _GROUP)
    # whole tiles only: a code that is not there has an infinite norm
    table = ready.codes.new_zeros(dim + 1, -(-num_codes // width) * width)
    torch.neg(ready.codes, out=table[:dim, :num_codes])
    table[dim] = torch.inf
    table[dim, :num_codes] = ready.half_norms
    num_rows = min(_MAX_ROWS, _SCORES_PER_THREAD * torch.get_num_threads() // width, max(num_latents, 1))
    tile = table.new_empty(num_rows, width)
    block = table.new_ones(num_rows, dim + 1)
    indices = torch.empty(num_latents, dtype=torch.int64, device=latents.device)
    for first in range(0, num_latents, num_rows):
        rows = latents[first : first + num_rows]
        block, tile = block[: len(rows)], tile[: len(rows)]
        moved = (rows.to(computing_dtype(latents)) - ready.center) * ready.scale
        block[:, :dim] = moved.clamp_(-FARTHEST, FARTHEST)
        best, found = _best_of_tile(torch.mm(block, table[:, :width], out=tile))
        for start in range(width, table.shape[1], width):
            score, index = _best_of_tile(torch.mm(block, table[:, start : start + width], out=tile))
            # strictly better only, so that of equal scores the lowest index stays
            better = score < best
            best = torch.where(better, score, best)
            found = torch.where(better, index + start, found)
        indices[first : first + num_rows] = found
    return indices


def _best_of_tile(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest score of each row and its first position: (R, C) -> (R,), (R,).

    ``amin`` is vectorised where a minimum with its position is not: so the position is sought in the best group alone.
    """
    groups = scores.view(len(scores), -1, _GROUP)
    best, group = groups.amin(dim=2).min(dim=1)
    within = groups[torch.arange(len(scores), device=scores.device), group].argmin(dim=1)
    return best, group * _GROUP + within


def code_sums(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Adds every latent to the row of its code, in order: the same bits at every run on a CPU.

    Floor: D (4 N + 4 K) + 8 (N + K) bytes, N D flops.
    """
    sums = torch.zeros(codebook_size, latents.shape[1], dtype=torch.float32, device=latents.device)
    sums.index_add_(0, indices, latents.float())
    return torch.bincount(indices, minlength=codebook_size), sums
