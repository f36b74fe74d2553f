"""Encoders, decoders, feature heads and projections: images to latents, and quantized vectors back."""

from vistok.backbones.base import Decoder, Encoder, EncoderOutput, FeatureHead
from vistok.backbones.conv import ConvDecoder, ConvEncoder
from vistok.backbones.feature_decoder import FeatureDecoder
from vistok.backbones.joined_encoder import JoinedEncoder
from vistok.backbones.mask_tokens import MaskTokenDecoder, MaskTokenHead
from vistok.backbones.pooled_encoder import PooledEncoder
from vistok.backbones.projection import MLP, Linear
from vistok.backbones.query_encoder import QueryEncoder
from vistok.backbones.selecting_encoder import SelectingEncoder
from vistok.backbones.soft_codes import SoftCodes
from vistok.backbones.timm_encoder import TimmEncoder
from vistok.backbones.vit import ViTDecoder, ViTEncoder

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "Encoder",
    "EncoderOutput",
    "FeatureDecoder",
    "FeatureHead",
    "JoinedEncoder",
    "Linear",
    "MaskTokenDecoder",
    "MaskTokenHead",
    "PooledEncoder",
    "QueryEncoder",
    "SelectingEncoder",
    "SoftCodes",
    "TimmEncoder",
    "ViTDecoder",
    "ViTEncoder",
]
