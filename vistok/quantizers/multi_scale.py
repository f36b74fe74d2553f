"""Multi-scale residual quantization: each scale of a growing grid quantizes what the coarser ones left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.combining import check_discrete, mean_losses, with_groups, without_groups
from vistok.quantizers.estimators import straight_through
from vistok.quantizers.schedule import Grid, ScaleSchedule
from vistok.quantizers.vq import VQ
from vistok.spec import StreamSpec
from vistok_kernels import multi_scale_codes

_BY_SUM = ("commitment", "codebook")


class MultiScale(Quantizer):
    """One quantizer on every scale of what is left, shrunk by area; what it gives is grown bicubically, smoothed and summed.

    Unlike other quantizers it needs latents on a two-dimensional grid, and its indices lie along N, coarsest scale
    first and each scale in raster order. ``decode`` therefore takes the finest grid too.

    Losses ``commitment`` and ``codebook`` are mean squared distances between the latents and the sum up to each scale,
    averaged over scales; the stage's other losses are averaged over scales. Gradients reach codes and smoothing
    convolutions through ``codebook``, and the encoder straight through.

    Source: Tian et al., Visual Autoregressive Modeling (2024), arXiv:2404.02905, algorithms 1 and 2; with BSQ stages Han
    et al., Infinity (2024), arXiv:2412.04431, section 3.2 (which has no convolutions: ``num_convolutions=0``).

    Args:
        stage: The quantizer of all scales; a discrete one whose input and output have the same channels.
        scales: Side lengths p_1 < ... < p_K of the schedule; its proportions serve every grid, see ``ScaleSchedule``.
        schedules: Whole schedules of (h, w) for grids that need their own, each ending with that grid.
        num_convolutions: 3 x 3 convolutions phi shared among neighbouring scales; 0 for none.
        smoothing: r of phi(x) = (1 - r) x + r conv(x), in [0, 1].

    Shapes:
        latent (B, h, w, D) -> quantized (B, h, w, D), indices (B, N), N = sum of p_k^2, or (B, N, S) for stages of S.

    Raises:
        ValueError: a schedule that shrinks, a continuous stage, or one that changes the number of channels.
    """

    def __init__(
        self,
        stage: Quantizer,
        scales: Sequence[int],
        schedules: Sequence[Sequence[Sequence[int]]] = (),
        num_convolutions: int = 4,
        smoothing: float = 0.5,
    ) -> None:
        super().__init__()
        self.codebook_size: int = check_discrete(stage, "stage")
        if stage.dim_in != stage.dim:
            raise ValueError(f"a stage must keep its {stage.dim_in} channels, it gives {stage.dim}")
        if num_convolutions < 0 or not 0 <= smoothing <= 1:
            raise ValueError(
                f"num_convolutions must be at least 0 and smoothing in [0, 1], they are {num_convolutions} and {smoothing}"
            )
        self.stage, self.smoothing = stage, smoothing
        self.schedule = ScaleSchedule(scales, schedules)
        self.dim, self.num_groups = stage.dim, stage.num_groups
        self.convolutions = nn.ModuleList(
            nn.Conv2d(self.dim, self.dim, 3, padding=1) for _ in range(num_convolutions)
        )

    @property
    def dim_depthwise(self) -> int:
        """The stage's."""
        return self.stage.dim_depthwise

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment``; ``codebook`` where codes or convolutions learn by it; the stage's others."""
        others = tuple(name for name in self.stage.loss_names if name not in _BY_SUM)
        return ("commitment", *(("codebook",) if self._learns else ()), *others)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes scale by scale: (B, h, w, D)."""
        latent = self._checked(latent)
        grids = self.schedule(_grid_of(latent))
        with torch.autocast(latent.device.type, enabled=False):
            stage = self._searching_stage()
            if stage is not None:
                return self._at_once(stage, latent, grids)
            total = torch.zeros_like(latent)
            indices, stage_losses, distances = [], [], []
            for number in range(len(grids)):
                output = self.stage(_shrink(latent - total.detach(), grids[number]))
                indices.append(with_groups(self.stage, output.indices).flatten(1, 2))
                # the stage's own output holds no gradient towards its codes
                codes = self._decoded(output.indices) if self._learns else output.quantized.detach()
                total = total + self._spread(codes, grids, number)
                distances.append({"commitment": F.mse_loss(latent, total.detach())})
                if self._learns:
                    distances[-1]["codebook"] = F.mse_loss(total, latent.detach())
                stage_losses.append({k: v for k, v in output.losses.items() if k not in _BY_SUM})
            losses = {**mean_losses(distances), **mean_losses(stage_losses)}
            quantized = straight_through(latent, total.detach())
            return QuantizerOutput(quantized, without_groups(self, torch.cat(indices, dim=1)), losses)

    def decode(self, indices: Tensor, grid: Grid | None = None) -> Tensor:
        """Sums all scales: (B, N) or (B, N, S) -> (B, h, w, D).

        Args:
            indices: Of all scales.
            grid: The finest grid (h, w); a square where none is said.

        Raises:
            ValueError: indices outside the codebook, or another number of them than the grid's scales have.
        """
        return self.partial_sums(indices, grid)[-1]

    def partial_sums(self, indices: Tensor, grid: Grid | None = None) -> list[Tensor]:
        """The sum up to each scale, on the finest grid: K tensors (B, h, w, D), coarsest first.

        The indices may be those of the first scales alone, where the grid is said.
        """
        sums: list[Tensor] = []
        grids, pieces = self._by_scale(indices, grid)
        with torch.autocast(indices.device.type, enabled=False):
            for number, piece in enumerate(pieces):
                step = self._spread(self.stage.decode(piece), grids, number)
                sums.append(step if not sums else sums[-1] + step)
        return sums

    def cumulative(self, indices: Tensor, grid: Grid | None = None) -> Tensor:
        """At each position, the sum up to its own scale, shrunk to it: (B, N[, S]) -> (B, N, D)."""
        grids, _ = self._by_scale(indices, grid)
        return self._shrunk_sums(self.partial_sums(indices, grid), grids)

    def next_inputs(self, indices: Tensor, grid: Grid | None = None) -> Tensor:
        """At each position from the second scale on, the sum of the scales before it, shrunk to its scale.

        This is what a next-scale model reads to predict that scale.

        Shapes:
            indices (B, N[, S]) -> (B, N - p_1^2, D); of the first n scales alone, also the inputs of scale n + 1.
        """
        grids, _ = self._by_scale(indices, grid)
        return self._shrunk_sums(self.partial_sums(indices, grid)[: len(grids) - 1], grids[1:])

    def codes(self, indices: Tensor) -> Tensor:
        """The code of each position by itself: (B, N) or (B, N, S) -> (B, N, D)."""
        return self.stage.decode(check_indices(indices, self.codebook_size))

    def depthwise(self, indices: Tensor) -> Tensor:
        """One code per index: (B, N, S) -> (B, N, S, d)."""
        return self.stage.depthwise(check_indices(indices, self.codebook_size))

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Prepares the stage with the latents themselves on every scale. Collective.

        Residuals of coarser scales do not exist before there are codes; shrunk latents are of their kind.
        """
        self.stage.prepare(self._on_all_scales(latent))

    @torch.no_grad()
    def revive(self, dead: Tensor, latent: Tensor) -> bool:
        """Revives the stage's codes by the latents themselves on every scale. Collective."""
        return self.stage.revive(dead, self._on_all_scales(latent))

    def update(self) -> None:
        """Updates the stage. Collective."""
        self.stage.update()

    def stream(self) -> StreamSpec:
        """The stage's description, on a multi-scale grid."""
        scales = self.schedule.scales
        return replace(
            self.stage.stream(),
            combinator="multiscale",
            topology="multiscale",
            scales=scales,
            schedules=tuple(self.schedule.table.values()),
            max_tokens=self.schedule.num_tokens((scales[-1], scales[-1])),
        )

    @classmethod
    def tiny(cls) -> MultiScale:
        """The tiny VQ on scales 1, 2 and 4."""
        return cls(VQ.tiny(), (1, 2, 4))

    @property
    def _learns(self) -> bool:
        return "codebook" in self.stage.loss_names or len(self.convolutions) > 0

    def _searching_stage(self) -> VQ | None:
        """The stage, where one op can take it through all scales: what it chooses is its nearest code."""
        return self.stage if isinstance(self.stage, VQ) and self.stage.replaceable else None

    def _at_once(self, stage: VQ, latent: Tensor, grids: Sequence[Grid]) -> QuantizerOutput:
        """What the loop over scales gives, from one op."""
        parameters = [self._convolution(number) for number in range(len(self.convolutions))]
        indices, quantized, compared, commitment, codebook_errors = multi_scale_codes(
            latent,
            # scaled by the op itself
            stage.codes.table(stage.codebook),
            grids,
            torch.stack([weight for weight, _ in parameters]) if parameters else None,
            torch.stack([bias for _, bias in parameters]) if parameters else None,
            [self._shared(number, len(grids)) for number in range(len(grids))] if parameters else (),
            self.smoothing,
            "cosine" if stage.metric == "cosine" else "euclid",
        )
        stage.note(compared, indices)
        count = len(grids) * latent.numel()
        losses = {"commitment": commitment.sum() / count}
        if self._learns:
            losses["codebook"] = codebook_errors.sum() / count
        return QuantizerOutput(straight_through(latent, quantized.detach()), indices, losses)

    def _convolution(self, number: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a smoothing convolution in float32, also in a half-precision model."""
        convolution = self.convolutions[number]
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        return convolution.weight.float(), convolution.bias.float()

    def _checked(self, latent: Tensor) -> Tensor:
        latent = as_latent(latent, self.dim)
        if latent.ndim != 4:
            raise ValueError(
                f"multi-scale latents must be (B, h, w, {self.dim}), these are {tuple(latent.shape)}"
            )
        return latent

    def _on_all_scales(self, latent: Tensor) -> Tensor:
        latent = self._checked(latent)
        rows = [_shrink(latent, grid).flatten(1, 2) for grid in self.schedule(_grid_of(latent))]
        return torch.cat(rows, dim=1)

    def _decoded(self, indices: Tensor) -> Tensor:
        # a GPU marks a latent that is not finite by index -1, which has no code
        return self.stage.decode(indices.clamp(min=0)) if indices.is_cuda else self.stage.decode(indices)

    def _spread(self, codes: Tensor, grids: Sequence[Grid], number: int) -> Tensor:
        """Codes of one scale on the finest grid, smoothed: (B, h_k, w_k, D) -> (B, h, w, D)."""
        planes = codes.movedim(-1, 1)
        if grids[number] != grids[-1]:
            planes = F.interpolate(planes, size=grids[-1], mode="bicubic")
        if len(self.convolutions):
            weight, bias = self._convolution(self._shared(number, len(grids)))
            smooth = F.conv2d(planes, weight, bias, padding=1)
            planes = (1 - self.smoothing) * planes + self.smoothing * smooth
        return planes.movedim(1, -1)

    def _shared(self, number: int, num_scales: int) -> int:
        """Which convolution serves a scale: the nearest of evenly spread ticks, as VAR has them."""
        count = len(self.convolutions)
        # VAR's own spacing: for four convolutions the ends are a twelfth away, else half a step
        margin = 1 / 3 / count if count == 4 else 1 / 2 / count
        at = number / max(1, num_scales - 1)
        step = (1 - 2 * margin) / max(1, count - 1)
        return min(range(count), key=lambda tick: abs(margin + tick * step - at))

    def _by_scale(self, indices: Tensor, grid: Grid | None) -> tuple[tuple[Grid, ...], list[Tensor]]:
        if indices.ndim != (2 if self.num_groups == 1 else 3):
            raise ValueError(f"multi-scale indices must be (B, N) or (B, N, S), not {tuple(indices.shape)}")
        indices = check_indices(indices, self.codebook_size)
        grids = self.schedule(self.schedule.square(indices.shape[1]) if grid is None else grid)
        pieces: list[Tensor] = []
        start = 0
        for height, width in grids:
            if start == indices.shape[1]:
                break
            pieces.append(indices[:, start : start + height * width])
            start += height * width
            if pieces[-1].shape[1] != height * width:
                break
            pieces[-1] = pieces[-1].reshape(len(indices), height, width, *indices.shape[2:])
        if start != indices.shape[1]:
            raise ValueError(
                f"{indices.shape[1]} tokens are not whole scales of {' + '.join(f'{h}x{w}' for h, w in grids)}"
            )
        return grids, pieces

    @staticmethod
    def _shrunk_sums(sums: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        pairs = zip(sums, grids, strict=False)
        return torch.cat([_shrink(total, grid).flatten(1, 2) for total, grid in pairs], dim=1)


def _grid_of(latent: Tensor) -> Grid:
    return latent.shape[1], latent.shape[2]


def _shrink(latent: Tensor, grid: Grid) -> Tensor:
    """Means over areas: (B, h, w, D) -> (B, *grid, D)."""
    if _grid_of(latent) == grid:
        return latent
    return F.interpolate(latent.movedim(-1, 1), size=grid, mode="area").movedim(1, -1)
