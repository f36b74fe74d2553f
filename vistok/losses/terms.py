"""The reconstruction side of a tokenizer's loss: named terms, weighed by the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from vistok.errors import RecipeError
from vistok.losses.adaptive import adaptive_weight
from vistok.losses.perceptual import Perceptual
from vistok.losses.pixel import Pixels, l1, l2
from vistok.losses.semantic import Semantic
from vistok.losses.term import Batch, Term, has_fields
from vistok.tokenizer import Reconstruction

KNOWN_TERMS = ("l1", "l2", "perceptual", "semantic")


class LossTerms(nn.Module):
    """Sums named loss terms with the weights of a recipe.

    The names are ``l1``, ``l2``, ``perceptual``, ``semantic``, those of ``terms``, and whatever the quantizer returns
    (``commitment``, ...). A term of weight 0 is not computed and its network not kept; a quantizer's losses come
    computed, so they are reported at weight 0 too. Adversarial weights live in ``Adversarial``.

    Args:
        weights: Weight by name, each finite and at least 0.
        perceptual: The network, or the backend of one to build; see ``Perceptual``.
        semantic: The teacher's loss.
        terms: Further ones by a name of your choice: ``Contrastive``, ``CodeCrossEntropy``, ``VisionFoundation``, a second
            ``Semantic``, or a ``Term`` of your own.

    Raises:
        RecipeError: a weight that is negative or not finite, one above 0 whose network is missing, or a term without one.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        perceptual: Perceptual | str | None = None,
        semantic: Semantic | None = None,
        terms: Mapping[str, Term] | None = None,
    ) -> None:
        super().__init__()
        self.weights = {name: _weight(name, value) for name, value in weights.items()}
        further = dict(terms or {})
        for name in further:
            if name in KNOWN_TERMS:
                raise RecipeError(
                    f"{name!r} is a term that vistok knows already: give the one in terms another name"
                )
            if name not in self.weights:
                raise RecipeError(
                    f"the term {name!r} has no weight: add {name} to weights, or take it out of terms"
                )
        if self._wants("perceptual") and isinstance(perceptual, str):
            perceptual = Perceptual(perceptual)
        given = {
            "l1": Pixels(l1),
            "l2": Pixels(l2),
            "perceptual": perceptual,
            "semantic": semantic,
            **further,
        }
        for name, setting, remedy in (
            ("perceptual", "network", "set perceptual to lpips or efficientnet-lite0"),
            ("semantic", "teacher", "set semantic, or give it weight 0"),
        ):
            if self._wants(name) and given[name] is None:
                raise RecipeError(f"{name!r} has a weight but no {setting}: {remedy}")
        self.terms = nn.ModuleDict(
            {name: term for name, term in given.items() if isinstance(term, Term) and self._wants(name)}
        )
        self._further = tuple(further)

    @property
    def adaptive(self) -> bool:
        """Whether a term's weight follows the gradients at the encoder's last layer."""
        return any(term.adaptive for _, term in self._terms())

    def check(self, quantizer_loss_names: Iterable[str]) -> None:
        """Compares the weights with what the quantizer returns; call it once, before training.

        Raises:
            RecipeError: a weight for a name that nothing returns, or a quantizer loss without a weight.
        """
        names = tuple(quantizer_loss_names)
        known = (*KNOWN_TERMS, *self._further, *names)
        for name in self.weights:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else ""
                raise RecipeError(f"no loss is called {name!r} here, known are {', '.join(known)}{meant}")
        self._refuse_unweighted(names)

    def forward(
        self, batch: Batch, output: Reconstruction, encoder_layer: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every term's detached, unweighted value by name; log them as ``loss/<name>``.

        An adaptive term's factor comes as ``<name>_weight``; without gradients, as in validation, it is 1. In evaluation
        mode a term is left out where the batch lacks a field that it needs.

        Args:
            batch: ``image`` (B, 3, H, W) in [-1, 1] and whatever else the terms need.
            output: What the tokenizer made of it.
            encoder_layer: Where adaptive weights compare gradients; needed if ``adaptive``.

        Shapes:
            -> scalar, {name: scalar}.

        Raises:
            RecipeError: a term whose input the tokenizer does not give, or a quantizer loss without a weight.
            DataError: an image without a field that a term needs.
        """
        self._refuse_unweighted(output.losses)
        values: dict[str, Tensor] = {
            name: term.measure(batch, output)
            for name, term in self._terms()
            if self.training or has_fields(batch, term.needs)
        }
        values.update(output.losses)
        factors = self._factors(values, encoder_layer) if torch.is_grad_enabled() else {}
        weighted = [
            self.weights[name] * (factors[name] * value if name in factors else value)
            for name, value in values.items()
            if self.weights[name] > 0
        ]
        if not weighted:
            raise RecipeError("all losses have weight 0: nothing would be trained")
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        logged = {name: value.detach() for name, value in values.items()}
        return total, {**logged, **{f"{name}_weight": factor for name, factor in factors.items()}}

    def _factors(self, values: Mapping[str, Tensor], layer: Tensor | None) -> dict[str, Tensor]:
        adaptive = [name for name, term in self._terms() if term.adaptive]
        if not adaptive:
            return {}
        pixels = [self.weights[name] * values[name] for name, term in self._terms() if term.compares_pixels]
        if not pixels or layer is None:
            raise RecipeError(
                f"the weight of {adaptive[0]!r} adapts to the losses on pixels, and there are none: give one a weight, "
                "or set adaptive: false"
            )
        reconstruction = torch.stack(pixels).sum()
        return {name: adaptive_weight(reconstruction, values[name], layer) for name in adaptive}

    def _terms(self) -> list[tuple[str, Term]]:
        return [(name, term) for name, term in self.terms.items() if isinstance(term, Term)]

    def _wants(self, name: str) -> bool:
        return self.weights.get(name, 0) > 0

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
