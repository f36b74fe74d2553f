"""The adversarial loss: its forms, LeCAM regularisation, the adaptive weight, and the object that holds them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from vistok.errors import RecipeError
from vistok.losses.discriminator import PatchDiscriminator

Form = Literal["hinge", "non_saturating"]


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the mean of relu(1 - real) plus half the mean of relu(1 + fake); 0 once all logits clear the margin.

    Source: Lim and Ye, Geometric GAN (2017), arXiv:1705.02894; the factor 1/2 is taming-transformers'.

    Shapes:
        real, fake: logits of any shape -> scalar.
    """
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """Minus the mean logit of reconstructions: unbounded, with a constant gradient."""
    return -fake.mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy with target 1 for real and 0 for fake, halved: means of softplus(-real) and softplus(fake).

    Source: Goodfellow et al., Generative Adversarial Nets (2014), arXiv:1406.2661, section 3.

    Shapes:
        real, fake: logits of any shape -> scalar.
    """
    return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Cross-entropy of reconstructions with target 1, softplus(-fake): falls as the logits rise."""
    return functional.softplus(-fake).mean()


def lecam(real: Tensor, fake: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
    """Pulls logits towards the moving average of the other side, which steadies training on little data.

    mean(relu(real - ema_fake)^2) + mean(relu(ema_real - fake)^2). The relu is from the authors' code; the paper's
    equation squares without it.

    Source: Tseng et al., Regularizing Generative Adversarial Networks under Limited Data (2021), arXiv:2104.03310,
    section 3.2.

    Shapes:
        real, fake: logits of any shape; ema_real, ema_fake: scalars -> scalar.
    """
    return functional.relu(real - ema_fake).square().mean() + functional.relu(ema_real - fake).square().mean()


def adaptive_weight(reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor) -> Tensor:
    """The ratio of the two losses' gradient norms at the decoder's last layer, so that neither drowns the other.

    |grad of reconstruction_loss| / (|grad of generator_loss| + 1e-4), at most 1e4, detached. Collective where a process
    group exists: gradients are averaged over all processes before their norms are taken, so that the weight is that of
    the whole batch at any number of processes (taming-transformers takes the ratio of each process's part).

    Source: Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv:2012.09841, equation 7.

    Args:
        reconstruction_loss: Weighted sum of the losses on pixels, scalar; its graph is kept.
        generator_loss: Scalar; its graph is kept.
        last_layer: ``decoder.last_layer``.
    """
    gradients = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().flatten()
        for loss in (reconstruction_loss, generator_loss)
    ]
    reconstruction_norm, generator_norm = mean_over_processes(torch.stack(gradients)).norm(dim=1)
    ratio = reconstruction_norm / (generator_norm + 1e-4)
    weight: Tensor = ratio.clamp(0.0, 1e4).detach()
    return weight


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes, the same on each; the values themselves where there is no process group.

    Collective.

    Shapes:
        values of any shape -> the same shape.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


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
        lecam_weight: Of ``lecam`` in the discriminator's loss; 0 switches it off.
        lecam_decay: Of the moving averages of mean logits, per ``update``; they start at 0.

    Raises:
        RecipeError: an unknown form, or a negative weight or start.
    """

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
        lecam_decay: float = 0.999,
    ) -> None:
        super().__init__()
        if form not in ("hinge", "non_saturating"):
            raise RecipeError(f"adversarial form {form!r} is unknown: choose hinge or non_saturating")
        for name, value in (("weight", weight), ("start", start), ("lecam_weight", lecam_weight)):
            if value < 0:
                raise RecipeError(f"adversarial {name} is {value}: it cannot be negative")
        # weight 0 costs nothing, so it builds no default network either
        self.discriminator = (
            discriminator if discriminator is not None or not weight else PatchDiscriminator()
        )
        self.weight, self.start, self.form, self.adaptive = weight, start, form, adaptive
        self.lecam_weight, self.lecam_decay = lecam_weight, lecam_decay
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
        fake = discriminator(reconstruction).float()
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
        """The discriminator's loss, and values to log: ``discriminator``, ``logits_real``, ``logits_fake``, ``lecam``.

        Nothing flows back into the tokenizer: both inputs are detached.

        Shapes:
            image, reconstruction (B, 3, H, W) in [-1, 1] -> scalar.
        """
        discriminator = self._network()
        real = discriminator(image.detach()).float()
        fake = discriminator(reconstruction.detach()).float()
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

    def _network(self) -> nn.Module:
        if self.discriminator is None:
            raise RecipeError(
                "the adversarial part has weight 0 and no discriminator: give it a weight before you ask for its losses"
            )
        return self.discriminator
