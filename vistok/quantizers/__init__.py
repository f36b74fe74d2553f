"""Quantizers: one file an idea, one contract (``base.py``)."""

from vistok.quantizers.base import Quantizer, QuantizerOutput
from vistok.quantizers.bsq import BSQ
from vistok.quantizers.code_entropy import CodeEntropy
from vistok.quantizers.codebooks import (
    BridgeCodebook,
    Codebook,
    FreeCodebook,
    FrozenCodebook,
    MovingAverage,
    ProjectedCodebook,
)
from vistok.quantizers.conditional import Conditional
from vistok.quantizers.continuous import Continuous, Gaussian, Identity
from vistok.quantizers.estimators import IndexSoftmax
from vistok.quantizers.external import External
from vistok.quantizers.fsq import FSQ
from vistok.quantizers.grouped_bits import GroupedBits
from vistok.quantizers.gumbel import Gumbel
from vistok.quantizers.latent_quantization import LatentQuantization
from vistok.quantizers.leech import Leech
from vistok.quantizers.lfq import LFQ
from vistok.quantizers.multi_scale import MultiScale
from vistok.quantizers.product import Product
from vistok.quantizers.random_projection import RandomProjection
from vistok.quantizers.residual import Residual
from vistok.quantizers.shared_index import SharedIndex
from vistok.quantizers.soft_vq import SoftVQ
from vistok.quantizers.vq import VQ

__all__ = [
    "BSQ",
    "FSQ",
    "LFQ",
    "VQ",
    "BridgeCodebook",
    "CodeEntropy",
    "Codebook",
    "Conditional",
    "Continuous",
    "External",
    "FreeCodebook",
    "FrozenCodebook",
    "Gaussian",
    "GroupedBits",
    "Gumbel",
    "Identity",
    "IndexSoftmax",
    "LatentQuantization",
    "Leech",
    "MovingAverage",
    "MultiScale",
    "Product",
    "ProjectedCodebook",
    "Quantizer",
    "QuantizerOutput",
    "RandomProjection",
    "Residual",
    "SharedIndex",
    "SoftVQ",
]
