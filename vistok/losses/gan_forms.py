"""What discriminator and generator are trained on: hinge, non-saturating, and two regularisations."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


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


def consistency(logits: Tensor, augmented: Tensor) -> Tensor:
    """Mean squared difference between the logits of images and of the same images augmented once more.

    Source: Zhao et al., Improved Consistency Regularization for GANs (2020), arXiv:2002.04724, section 3.1 (bCR).

    Shapes:
        logits, augmented of one shape -> scalar.
    """
    return (logits - augmented).square().mean()
