"""Other people's models at tiny sizes, with weights that leave no part without effect, saved as they would publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def randomised(model: Any, seed: int = 0) -> Any:
    """The model in evaluation mode, every weight, bias and statistic random, activations of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
            if noise is None:
                continue
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif value.ndim > 1:
                value.copy_(noise / (value[0].numel() ** 0.5))
            else:
                value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
    return model.eval()


def spread_codes(embedding: nn.Embedding, latents: Tensor, length_one: bool = False) -> None:
    """Makes codes of latents (B, D, ...) that the model gives itself, so that many of them are chosen."""
    rows = latents.movedim(1, -1).flatten(0, -2)
    generator = torch.Generator().manual_seed(1)
    chosen = rows[torch.randperm(len(rows), generator=generator)[: len(embedding.weight)]]
    codes = chosen + 0.1 * rows.std(0) * torch.randn(chosen.shape, generator=generator)
    with torch.no_grad():
        embedding.weight.copy_(codes / codes.norm(dim=-1, keepdim=True) if length_one else codes)


def images(height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    """Random images (B, 3, H, W) in [-1, 1], half smooth and half noise."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=generator) * 2 - 1
    fine = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    return (nn.functional.interpolate(coarse, size=(height, width), mode="bilinear") + fine) / 2


def saved(model: Any, folder: Path) -> Path:
    """As ``save_pretrained`` leaves it."""
    model.save_pretrained(folder)
    return folder
