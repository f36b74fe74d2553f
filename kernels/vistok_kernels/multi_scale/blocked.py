"""The PyTorch path of the multi-scale search, and its gradients on every device: memory O(B N D + K D), never N x K."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import computing_dtype
from vistok_kernels.multi_scale.resampling import Grid, grow, grow_backward, shrink
from vistok_kernels.vq import gather_backward

Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_PADDED = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


class Convolutions(NamedTuple):
    """The 3 x 3 convolutions that smooth what is grown, C of them or none, and which of them serves each scale.

    Shapes:
        weight (C, D, D, 3, 3), bias (C, D).
    """

    weight: Tensor
    bias: Tensor
    assigned: Sequence[int]

    def smooth(self, image: Tensor, number: int) -> Tensor:
        """The grown codes of a scale smoothed: (B, h, w, D) -> (B, h, w, D)."""
        if not len(self.weight):
            return image
        own = self.assigned[number]
        # a channels-last image seen as planes is what a convolution in channels-last reads and gives
        return F.conv2d(image.movedim(-1, 1), self.weight[own], self.bias[own], padding=1).movedim(1, -1)


class Upstream(NamedTuple):
    """Gradients of the results; None for what nobody used.

    Shapes:
        quantized (B, h, w, D), commitment (S,), codebook (S,).
    """

    quantized: Tensor | None
    commitment: Tensor | None
    codebook: Tensor | None


def multi_scale_codes(
    latents: Tensor,
    codebook: Tensor,
    convolutions: Convolutions,
    grids: Sequence[Grid],
    find: Callable[[Tensor], Tensor],
) -> Five:
    """Searches scale by scale with ``find`` (rows -> indices), which knows the codebook.

    Floor: 4 D (2 B P + B N + K) + 8 B N bytes for P = h w; 2 B N K (D + 1) flops of the search, and 18 B S P D^2 of
    the convolutions. Shrinking and growing take 2 B D (h_k w (h + w_k)) each at a scale, by separable matrices.
    """
    latents = latents.to(torch.promote_types(computing_dtype(latents), codebook.dtype)).contiguous()
    if latents.is_cuda:
        # as in the kernel, a bad value makes its whole image bad
        latents = latents + (latents * 0).sum(dim=(1, 2, 3), keepdim=True)
    left, total = latents, torch.zeros_like(latents)
    chosen, compared, errors = [], [], []
    for number, grid in enumerate(grids):
        shrunk = shrink(left, grid)
        indices = find(shrunk.reshape(-1, shrunk.shape[3]))
        codes = _look_up(codebook, indices).view(shrunk.shape)
        total += convolutions.smooth(grow(codes, grids[-1]), number)
        left = latents - total
        chosen.append(indices.view(len(latents), grid[0] * grid[1]))
        compared.append(shrunk.flatten(1, 2))
        # a dot product squares without a tensor of squares
        errors.append(torch.dot(left.view(-1), left.view(-1)))
    distances = torch.stack(errors)
    return torch.cat(chosen, dim=1), total, torch.cat(compared, dim=1), distances, distances.clone()


def backward(
    upstream: Upstream,
    latents: Tensor,
    codebook: Tensor,
    convolutions: Convolutions,
    quantized: Tensor,
    indices: Tensor,
    grids: Sequence[Grid],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of latents, codebook, weight and bias: the loop run backwards, each scale's sum made from the next one's.

    Floor: 4 D (4 B P + B N + K) + 8 B N bytes, 36 B S P D^2 flops of the convolutions, and half as many to make their
    results again where errors need the sums up to each scale.
    """
    total, to_latents = quantized, torch.zeros_like(quantized)
    to_weight, to_bias = torch.zeros_like(convolutions.weight), torch.zeros_like(convolutions.bias)
    # of the sum up to the scale at hand; None where nothing reaches codes
    below = None if upstream.quantized is None else upstream.quantized.to(total.dtype)
    errors_matter = upstream.commitment is not None or upstream.codebook is not None
    to_codes = []
    for number, codes in _scales_backwards(codebook, indices, grids):
        excess = total - latents if errors_matter else total
        if upstream.commitment is not None:
            to_latents -= 2 * upstream.commitment[number] * excess
        if upstream.codebook is not None:
            step = 2 * upstream.codebook[number] * excess
            below = step if below is None else below + step
        grown = grow(codes, grids[-1])
        if errors_matter and number:
            total = total - convolutions.smooth(grown, number)
        if below is None:
            continue
        gradient = below
        if len(convolutions.weight):
            own = convolutions.assigned[number]
            gradient, weight, bias = _smooth_backward(below, grown, convolutions.weight[own])
            to_weight[own] += weight
            to_bias[own] += bias
        to_codes.append(grow_backward(gradient, grids[number]).flatten(1, 2))
    if not to_codes:
        return to_latents, torch.zeros_like(codebook), to_weight, to_bias
    rows = torch.cat(to_codes[::-1], dim=1).flatten(0, 1)
    return to_latents, gather_backward(rows, indices.flatten(), len(codebook)), to_weight, to_bias


def _smooth_backward(below: Tensor, grown: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a convolution's image (B, h, w, D), weight and bias."""
    planes, to_weight, to_bias = torch.ops.aten.convolution_backward(
        below.movedim(-1, 1), grown.movedim(-1, 1), weight, [len(weight)], *_PADDED, [True, True, True]
    )
    return planes.movedim(1, -1), to_weight, to_bias


def _scales_backwards(
    codebook: Tensor, indices: Tensor, grids: Sequence[Grid]
) -> Iterator[tuple[int, Tensor]]:
    """The number of each scale and its codes (B, h_k, w_k, D), finest first."""
    end = indices.shape[1]
    for number in reversed(range(len(grids))):
        height, width = grids[number]
        start = end - height * width
        yield number, _look_up(codebook, indices[:, start:end].reshape(-1, height, width))
        end = start


def _look_up(codebook: Tensor, indices: Tensor) -> Tensor:
    """Codes (..., D) of indices (...); NaN for the -1 that marks a bad row on a GPU."""
    if indices.device.type == "cpu":
        return F.embedding(indices, codebook)
    codes = F.embedding(indices.clamp(min=0), codebook)
    return torch.where(indices.unsqueeze(-1) >= 0, codes, torch.nan)
