"""Learning another tokenizer's codes in place of pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vistok.errors import RecipeError
from vistok.losses.frozen import Frozen
from vistok.losses.term import Batch, Term, features_of
from vistok.tokenizer import Reconstruction, Tokenizer, load


class CodeCrossEntropy(Frozen, Term):
    """Cross-entropy, in nats, between the codes that a frozen proxy tokenizer chooses and those that are predicted.

    The proxy is neither trained nor saved, see ``Frozen``.

    Source: the first stage of Yu et al., An Image is Worth 32 Tokens (2024), arXiv:2406.07550, section 3.3.

    Args:
        proxy: A discrete tokenizer, or the folder or Hugging Face Hub id of one.

    Shapes:
        image (B, 3, H, W) in [-1, 1], logits (B, h, w, S * K) or (B, N, S * K) on the proxy's grid, K innermost -> scalar.

    Raises:
        RecipeError: a continuous proxy, or logits that are not the proxy's in number or grid.
        TokenizerError: there is no such tokenizer.
    """

    def __init__(self, proxy: Tokenizer | str | Path) -> None:
        loaded = proxy if isinstance(proxy, Tokenizer) else load(proxy)
        super().__init__(loaded)
        quantizer = loaded.quantizer
        if quantizer.codebook_size is None:
            raise RecipeError(
                f"the proxy {loaded.name} is continuous: cross-entropy needs the codes of a discrete one"
            )
        self.codebook_size, self.num_groups = quantizer.codebook_size, quantizer.num_groups

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        """The loss of a batch; gradients reach the logits."""
        wanted = self.codebook_size * self.num_groups
        if logits.shape[-1] != wanted:
            raise RecipeError(
                f"the feature head predicts {logits.shape[-1]} channels but the proxy's codes take "
                f"{self.num_groups} x {self.codebook_size}: set the head's dim_out to {wanted}"
            )
        codes = self.codes(image)
        if logits.shape[1:-1].numel() != codes.shape[1]:
            raise RecipeError(
                f"the feature head predicts {logits.shape[1:-1].numel()} positions but the proxy has {codes.shape[1]}: "
                "make both grids equal"
            )
        flat = logits.float().reshape(-1, self.codebook_size)
        return functional.cross_entropy(flat, codes.flatten())

    def codes(self, image: Tensor) -> Tensor:
        """What the proxy chooses: (B, 3, H, W) -> (B, N, S) int64."""
        proxy = self.network
        assert isinstance(proxy, Tokenizer)
        with torch.autocast(image.device.type, enabled=False):
            indices = proxy.encode(image.float()).indices
        assert indices is not None
        return indices

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """Predicted codes against the proxy's."""
        loss: Tensor = self(batch["image"], features_of(output, "code"))
        return loss
