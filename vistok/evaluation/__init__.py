"""Evaluation of tokenizers: fidelity, perceptual and set distances, codebook usage, each with a protocol id."""

from vistok.evaluation.codebook import CodebookUsage
from vistok.evaluation.evaluate import evaluate
from vistok.evaluation.frechet import FeatureStatistics, frechet_distance, kernel_distance
from vistok.evaluation.latents import LatentStatistics, normalise
from vistok.evaluation.metrics import psnr, round_to_uint8, ssim
from vistok.evaluation.result import Evaluation, Metric
from vistok.evaluation.zero_shot import classification, retrieval

__all__ = [
    "CodebookUsage",
    "Evaluation",
    "FeatureStatistics",
    "LatentStatistics",
    "Metric",
    "classification",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "normalise",
    "psnr",
    "retrieval",
    "round_to_uint8",
    "ssim",
]
