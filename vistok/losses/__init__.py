"""Losses of tokenizer training: named terms on reconstructions, and the adversarial part."""

from vistok.losses.adversarial import (
    Adversarial,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
)
from vistok.losses.discriminator import PatchDiscriminator
from vistok.losses.perceptual import Perceptual
from vistok.losses.pixel import l1, l2
from vistok.losses.semantic import Semantic
from vistok.losses.terms import KNOWN_TERMS, LossTerms

__all__ = [
    "KNOWN_TERMS",
    "Adversarial",
    "LossTerms",
    "PatchDiscriminator",
    "Perceptual",
    "Semantic",
    "adaptive_weight",
    "hinge_discriminator",
    "hinge_generator",
    "l1",
    "l2",
    "lecam",
    "non_saturating_discriminator",
    "non_saturating_generator",
]
