"""The adversarial loss: a discriminator, its schedule, and what regularises it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vistok.errors import RecipeError
from vistok.losses.adaptive import adaptive_weight
from vistok.losses.augmentation import Augmentation
from vistok.losses.discriminator import PatchDiscriminator
from vistok.losses.gan_forms import (
    consistency,
    hinge_discriminator,
    hinge_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
)

Form = Literal["hinge", "non_saturating"]
LECAM_DECAY = 0.999


class Adversarial(nn.Module):
    """Trains a discriminator and lets it judge the reconstructions.

    Each optimizer step of the tokenizer asks ``generator_loss``, each of the discriminator ``discriminator_loss``
    followed by ``update``. Before ``start``, ``active`` is False and neither should be asked: nothing is computed.

    Args:
        discriminator: Images (B, 3, H, W) to logits of any shape; by default ``PatchDiscriminator()``.
        weight: Of the generator loss; 0 switches the whole part off.
        start: First step (tokenizer steps, counted from 0) at which it acts.
        form: ``hinge`` or ``non_saturating``.
        adaptive: Multiply the weight by ``adaptive_weight``.
        lecam_weight: Of ``lecam`` in the discriminator's loss; 0 switches it off. ``lecam_decay``, an attribute, is that of
            its moving averages of mean logits, per ``update``; they start at 0.
        consistency_weight: Of ``consistency`` in the discriminator's loss, on images and on reconstructions, augmented by
            ``augment`` or, without it, by ``Augmentation()``; 0 switches it off and saves two passes.
        augment: What happens to all that the discriminator sees, differentiable; None shows it images as they are.

    Raises:
        RecipeError: an unknown form, or a negative weight or start.
    """

    lecam_decay: float = LECAM_DECAY
    ema_real: Tensor
    ema_fake: Tensor
    pending: Tensor

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        weight: float = 0.8,
        start: int = 0,
        form: Form = "hinge",
        adaptive: bool = True,
        lecam_weight: float = 0.0,
        consistency_weight: float = 0.0,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__()
        if form not in ("hinge", "non_saturating"):
            raise RecipeError(f"adversarial form {form!r} is unknown: choose hinge or non_saturating")
        for name, value in (
            ("weight", weight),
            ("start", start),
            ("lecam_weight", lecam_weight),
            ("consistency_weight", consistency_weight),
        ):
            if value < 0:
                raise RecipeError(f"adversarial {name} is {value}: it cannot be negative")
        # weight 0 costs nothing, so it builds no default network either
        self.discriminator = (
            discriminator if discriminator is not None or not weight else PatchDiscriminator()
        )
        self.weight, self.start, self.form, self.adaptive = weight, start, form, adaptive
        self.lecam_weight, self.consistency_weight = lecam_weight, consistency_weight
        self.augment = augment
        self._once_more = augment if augment is not None else Augmentation()
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))
        # sums of mean logits (real, fake) and their number since the last update
        self.register_buffer("pending", torch.zeros(3), persistent=False)

    def active(self, step: int) -> bool:
        """Whether it acts at that step of the tokenizer, counted from 0."""
        return self.weight > 0 and step >= self.start

    def generator_loss(
        self,
        reconstruction: Tensor,
        reconstruction_loss: Tensor | None = None,
        last_layer: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss to add to the tokenizer's, and values to log: ``adversarial``, ``adaptive_weight``.

        The discriminator's weights get no gradient from it.

        Shapes:
            reconstruction (B, 3, H, W), not clamped; reconstruction_loss scalar and last_layer: see
            ``adaptive_weight``, needed only where ``adaptive``.

        Raises:
            RecipeError: ``adaptive`` without the two.
        """
        discriminator = self._network()
        flags = [(parameter, parameter.requires_grad) for parameter in discriminator.parameters()]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        fake = discriminator(self._augmented(reconstruction)).float()
        for parameter, required in flags:
            parameter.requires_grad_(required)
        loss = hinge_generator(fake) if self.form == "hinge" else non_saturating_generator(fake)
        logged = {"adversarial": loss.detach()}
        weight = torch.as_tensor(self.weight, dtype=loss.dtype, device=loss.device)
        if self.adaptive:
            if reconstruction_loss is None or last_layer is None:
                raise RecipeError(
                    "the adaptive adversarial weight needs the reconstruction loss and a decoder: set adaptive: false"
                )
            logged["adaptive_weight"] = adaptive_weight(reconstruction_loss, loss, last_layer)
            weight = weight * logged["adaptive_weight"]
        return weight * loss, logged

    def discriminator_loss(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss, and values to log.

        These are ``discriminator``, ``logits_real``, ``logits_fake`` and, where they are switched on, ``lecam`` and
        ``consistency``.

        Nothing flows back into the tokenizer: both inputs are detached.

        Shapes:
            image, reconstruction (B, 3, H, W) in [-1, 1] -> scalar.
        """
        discriminator = self._network()
        seen = self._augmented(image.detach()), self._augmented(reconstruction.detach())
        real, fake = (discriminator(images).float() for images in seen)
        loss = (
            hinge_discriminator(real, fake)
            if self.form == "hinge"
            else non_saturating_discriminator(real, fake)
        )
        logged = {
            "discriminator": loss.detach(),
            "logits_real": real.detach().mean(),
            "logits_fake": fake.detach().mean(),
        }
        if self.lecam_weight > 0:
            regularisation = lecam(real, fake, self.ema_real, self.ema_fake)
            logged["lecam"] = regularisation.detach()
            loss = loss + self.lecam_weight * regularisation
            self.pending += torch.stack(
                [logged["logits_real"], logged["logits_fake"], torch.ones_like(loss.detach())]
            )
        if self.consistency_weight > 0:
            regularisation = sum(
                (
                    consistency(logits, discriminator(self._once_more(images)).float())
                    for logits, images in zip((real, fake), seen, strict=True)
                ),
                torch.zeros_like(loss),
            )
            logged["consistency"] = regularisation.detach()
            loss = loss + self.consistency_weight * regularisation
        return loss, logged

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages by the logits seen since the last call, after each optimizer step of the discriminator.

        Collective where a process group exists: the same result on all ranks. Without LeCAM it does nothing.
        """
        if not self.lecam_weight:
            return
        sums = self.pending.clone()
        self.pending.zero_()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        # no branch on the number, which would wait for the GPU
        step = (1 - self.lecam_decay) * (sums[2] > 0)
        means = sums[:2] / sums[2].clamp(min=1)
        self.ema_real.lerp_(means[0], step)
        self.ema_fake.lerp_(means[1], step)

    def _augmented(self, images: Tensor) -> Tensor:
        return images if self.augment is None else self.augment(images)

    def _network(self) -> nn.Module:
        if self.discriminator is None:
            raise RecipeError(
                "the adversarial part has weight 0 and no discriminator: give it a weight before you ask for its losses"
            )
        return self.discriminator
