"""Losses of tokenizer training: named terms on reconstructions, and the adversarial part."""

from vistok.losses.adaptive import adaptive_weight, encoder_layer
from vistok.losses.adversarial import Adversarial
from vistok.losses.augmentation import Augmentation
from vistok.losses.code_cross_entropy import CodeCrossEntropy
from vistok.losses.contrastive import Contrastive
from vistok.losses.discriminator import PatchDiscriminator
from vistok.losses.feature_discriminator import FeatureDiscriminator
from vistok.losses.gan_forms import (
    consistency,
    hinge_discriminator,
    hinge_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
)
from vistok.losses.perceptual import Perceptual
from vistok.losses.pixel import l1, l2
from vistok.losses.semantic import Semantic
from vistok.losses.style_discriminator import StyleDiscriminator
from vistok.losses.term import Term
from vistok.losses.terms import KNOWN_TERMS, LossTerms
from vistok.losses.vision_foundation import VisionFoundation

__all__ = [
    "KNOWN_TERMS",
    "Adversarial",
    "Augmentation",
    "CodeCrossEntropy",
    "Contrastive",
    "FeatureDiscriminator",
    "LossTerms",
    "PatchDiscriminator",
    "Perceptual",
    "Semantic",
    "StyleDiscriminator",
    "Term",
    "VisionFoundation",
    "adaptive_weight",
    "consistency",
    "encoder_layer",
    "hinge_discriminator",
    "hinge_generator",
    "l1",
    "l2",
    "lecam",
    "non_saturating_discriminator",
    "non_saturating_generator",
]
