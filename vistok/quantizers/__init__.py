"""Quantizers: one file an idea, one contract (``base.py``)."""

from vistok.quantizers.base import Quantizer, QuantizerOutput
from vistok.quantizers.continuous import Continuous, Gaussian, Identity
from vistok.quantizers.external import External
from vistok.quantizers.fsq import FSQ
from vistok.quantizers.residual import Residual
from vistok.quantizers.vq import VQ

__all__ = [
    "FSQ",
    "VQ",
    "Continuous",
    "External",
    "Gaussian",
    "Identity",
    "Quantizer",
    "QuantizerOutput",
    "Residual",
]
