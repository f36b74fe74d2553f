"""Held-out images beside their reconstructions, for the eyes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from vistok.tokenizer.preprocess import to_pil
from vistok.training.saving import is_dry_run, run_folder


class ImageLog(pl.Callback):
    """Writes the first held-out images above their reconstructions, at each validation.

    Always as ``<run>/images/step=<n>.png``; to TensorBoard and wandb too where these log.

    Args:
        count: Images, at most.
        max_side: Centre of each image that is shown, in pixels.
    """

    def __init__(self, count: int = 4, max_side: int = 256) -> None:
        self.count, self.max_side = count, max_side
        self._pairs: list[Tensor] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps what will be shown."""
        if trainer.is_global_zero and outputs["reconstruction"] is not None:
            for image, reconstruction in zip(outputs["image"], outputs["reconstruction"], strict=True):
                if len(self._pairs) < self.count:
                    pair = torch.cat([self._centre(image), self._centre(reconstruction)], dim=1)
                    self._pairs.append(pair.detach().float().cpu())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Shows it."""
        pairs, self._pairs = self._pairs, []
        if not pairs or trainer.sanity_checking or is_dry_run(trainer):
            return
        sheet = contact_sheet(pairs)
        path = run_folder(trainer) / "images" / f"step={pl_module.step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = to_pil(sheet)
        picture.save(path)
        self._send(trainer, picture, sheet, pl_module.step)

    def _send(self, trainer: pl.Trainer, picture: Any, sheet: Tensor, step: int) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/images", (sheet + 1) / 2, step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/images", [picture], step=step)

    def _centre(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side_h, side_w = min(height, self.max_side), min(width, self.max_side)
        top, left = (height - side_h) // 2, (width - side_w) // 2
        return image[:, top : top + side_h, left : left + side_w]


def contact_sheet(columns: list[Tensor]) -> Tensor:
    """Images (3, H_i, W_i) in [-1, 1] side by side on white: (3, max H_i, sum W_i)."""
    height = max(column.shape[1] for column in columns)
    padded = [torch.nn.functional.pad(c, (0, 0, 0, height - c.shape[1]), value=1.0) for c in columns]
    return torch.cat(padded, dim=2).clamp(-1, 1)
