"""The reconstruction side of a tokenizer's loss: named terms, weighed by the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from torch import Tensor, nn

from vistok.errors import RecipeError
from vistok.losses.perceptual import Perceptual
from vistok.losses.pixel import l1, l2
from vistok.losses.semantic import Semantic
from vistok.tokenizer import Reconstruction

KNOWN_TERMS = ("l1", "l2", "perceptual", "semantic")


class LossTerms(nn.Module):
    """Sums named loss terms with the weights of a recipe.

    The names are ``l1``, ``l2``, ``perceptual``, ``semantic``, and whatever the quantizer returns (``commitment``, ...).
    A term of weight 0 is not computed and its network not built or kept; a quantizer's losses come computed, so they
    are reported at weight 0 too. Adversarial weights live in ``Adversarial``.

    Args:
        weights: Weight by name, each finite and at least 0.
        perceptual: The network, or the backend of one to build; see ``Perceptual``.
        semantic: The teacher's loss.

    Raises:
        RecipeError: a weight that is negative or not finite, or a weight above 0 whose network is missing.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        perceptual: Perceptual | str | None = None,
        semantic: Semantic | None = None,
    ) -> None:
        super().__init__()
        self.weights = {name: _weight(name, value) for name, value in weights.items()}
        wants_perceptual, wants_semantic = (
            self.weights.get("perceptual", 0) > 0,
            self.weights.get("semantic", 0) > 0,
        )
        if wants_perceptual and perceptual is None:
            raise RecipeError(
                "'perceptual' has a weight but no network: set perceptual to lpips or efficientnet-lite0"
            )
        if wants_semantic and semantic is None:
            raise RecipeError("'semantic' has a weight but no teacher: set semantic, or give it weight 0")
        if isinstance(perceptual, str):
            perceptual = Perceptual(perceptual) if wants_perceptual else None
        self.perceptual = perceptual if wants_perceptual else None
        self.semantic = semantic if wants_semantic else None

    def check(self, quantizer_loss_names: Iterable[str]) -> None:
        """Compares the weights with what the quantizer returns; call it once, before training.

        Raises:
            RecipeError: a weight for a name that nothing returns, or a quantizer loss without a weight.
        """
        names = tuple(quantizer_loss_names)
        known = (*KNOWN_TERMS, *names)
        for name in self.weights:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else ""
                raise RecipeError(f"no loss is called {name!r} here, known are {', '.join(known)}{meant}")
        self._refuse_unweighted(names)

    def forward(self, image: Tensor, output: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every term's detached, unweighted value by name; log them as ``loss/<name>``.

        Shapes:
            image (B, 3, H, W) in [-1, 1] -> scalar, {name: scalar}.

        Raises:
            RecipeError: a term whose input the tokenizer does not give, or a quantizer loss without a weight.
        """
        self._refuse_unweighted(output.losses)
        terms = {
            name: self._term(name, image, output) for name in KNOWN_TERMS if self.weights.get(name, 0) > 0
        }
        terms.update(output.losses)
        weighted = [self.weights[name] * value for name, value in terms.items() if self.weights[name] > 0]
        if not weighted:
            raise RecipeError("all losses have weight 0: nothing would be trained")
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        return total, {name: value.detach() for name, value in terms.items()}

    def _term(self, name: str, image: Tensor, output: Reconstruction) -> Tensor:
        if name == "semantic":
            if output.features is None:
                raise RecipeError(
                    "'semantic' has a weight but the tokenizer has no feature head: add feature_head, or drop the weight"
                )
            assert self.semantic is not None
            loss: Tensor = self.semantic(image, output.features)
            return loss
        if output.image is None:
            raise RecipeError(
                f"{name!r} has a weight but the tokenizer does not decode to pixels: drop the weight"
            )
        if name == "perceptual":
            assert self.perceptual is not None
            loss = self.perceptual(image, output.image)
            return loss
        return l1(image, output.image) if name == "l1" else l2(image, output.image)

    def _refuse_unweighted(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.weights:
                raise RecipeError(
                    f"the quantizer returns loss {name!r} but the recipe gives it no weight: add "
                    f"{name}: {0.25 if name == 'commitment' else 1.0}, or {name}: 0 to leave it out"
                )


def _weight(name: str, value: float) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the weight of loss {name!r} is {value!r}, which is not a number") from error
    if not math.isfinite(weight) or weight < 0:
        raise RecipeError(f"the weight of loss {name!r} is {value}: give a finite number of at least 0")
    return weight
