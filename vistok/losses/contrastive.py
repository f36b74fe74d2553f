"""The contrastive loss: an image is near its own caption and far from the others of the batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vistok.errors import RecipeError
from vistok.losses.frozen import Frozen
from vistok.losses.gathered import first_row, gather_rows
from vistok.losses.term import Batch, Term, features_of, field_of
from vistok.tokenizer import Reconstruction

MAX_SCALE = 100.0


class Contrastive(Term):
    """Compares what the feature head says of every image with what a text tower says of every caption.

    Features are averaged over positions and scaled to length 1, and so are the texts'. Negatives are the other captions
    of the whole batch over all processes, whose number does not change the result; with ``accumulate`` they are those
    of one micro-batch. The logit scale, the bias and an unfrozen tower are trained with the tokenizer; a frozen
    tower is neither trained nor saved, see ``Frozen``.

    Source: ``sigmoid``: Zhai et al., Sigmoid Loss for Language Image Pre-Training (2023), arXiv:2303.15343, section 3.2.
    ``softmax``: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021),
    arXiv:2103.00020, section 2.3, with its bound of 100 on the scale.

    Args:
        tower: A list of B strings to (B, D); D is the feature head's.
        form: ``sigmoid`` judges every pair by itself, ``softmax`` chooses among the batch.
        frozen: Do not train the tower.
        scale: Of the cosines at the start, above 0; by default the papers' 10 and 1 / 0.07.
        bias: Added to the scaled cosines at the start, of the sigmoid form alone.

    Shapes:
        features (b, ..., D) or (b, D), texts (b, D) -> scalar.

    Raises:
        RecipeError: an unknown form, a scale that is not positive, or a tower of another D.
    """

    needs = ("caption",)

    def __init__(
        self,
        tower: nn.Module,
        form: Literal["sigmoid", "softmax"] = "sigmoid",
        frozen: bool = True,
        scale: float | None = None,
        bias: float = -10.0,
    ) -> None:
        super().__init__()
        if form not in ("sigmoid", "softmax"):
            raise RecipeError(f"contrastive form {form!r} is unknown: choose sigmoid or softmax")
        if scale is None:
            scale = 10.0 if form == "sigmoid" else 1 / 0.07
        if not scale > 0:
            raise RecipeError(f"the contrastive scale is {scale}: it must be above 0")
        self.form, self.frozen = form, frozen
        self.text = Frozen(tower) if frozen else tower
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias))) if form == "sigmoid" else None

    @property
    def tower(self) -> nn.Module:
        """The text tower."""
        return self.text.network if isinstance(self.text, Frozen) else self.text

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """The loss of this process's images; averaged over processes it is that of the whole batch.

        Collective in training mode. In evaluation mode each process has its own batch.
        """
        if features.shape[-1] != texts.shape[-1]:
            raise RecipeError(
                f"the feature head predicts {features.shape[-1]} channels but the text tower gives {texts.shape[-1]}: "
                f"set the head's dim_out to {texts.shape[-1]}"
            )
        with torch.autocast(features.device.type, enabled=False):
            image = functional.normalize(
                features.float().reshape(len(features), -1, features.shape[-1]).mean(1), dim=-1
            )
            text = functional.normalize(texts.float(), dim=-1)
            gather = gather_rows if self.training else _own
            first = first_row(image) if self.training else 0
            scale, texts_of_all = self.log_scale.exp(), gather(text)
            if self.bias is not None:
                return _sigmoid_loss(scale * image @ texts_of_all.T + self.bias, first)
            scale = scale.clamp(max=MAX_SCALE)
            own = torch.arange(first, first + len(image), device=image.device)
            to_texts = functional.cross_entropy(scale * image @ texts_of_all.T, own)
            to_images = functional.cross_entropy(scale * text @ gather(image).T, own)
            return (to_texts + to_images) / 2

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """Images against captions."""
        features = features_of(output, "contrastive")
        captions = field_of(batch, "caption")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            texts = self.tower(captions).to(features.device)
        loss: Tensor = self(features, texts)
        return loss

    def extra_repr(self) -> str:
        """The form."""
        return f"form={self.form!r}, frozen={self.frozen}"


def _sigmoid_loss(logits: Tensor, first: int) -> Tensor:
    """Logits (b, B) of images against all texts, those of pairs on the diagonal that begins at column ``first``."""
    signs = -torch.ones_like(logits)
    signs.diagonal(first).fill_(1.0)
    return -functional.logsigmoid(signs * logits).sum() / len(logits)


def _own(rows: Tensor) -> Tensor:
    return rows
