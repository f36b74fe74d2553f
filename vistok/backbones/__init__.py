"""Encoders, decoders, feature heads and projections: images to latents, and quantized vectors back."""

from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.backbones.conv import ConvDecoder, ConvEncoder
from vistok.backbones.dc_ae import DCDecoder, DCEncoder
from vistok.backbones.feature_decoder import FeatureDecoder
from vistok.backbones.mae_decoder import MAEDecoder
from vistok.backbones.modulated import ModulatedDecoder, StillConvs
from vistok.backbones.projection import MLP, Linear
from vistok.backbones.resized import ResizedEncoder
from vistok.backbones.timm_encoder import TimmEncoder
from vistok.backbones.vit import ViTDecoder, ViTEncoder

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "DCDecoder",
    "DCEncoder",
    "Decoder",
    "Encoder",
    "FeatureDecoder",
    "FeatureHead",
    "Linear",
    "MAEDecoder",
    "ModulatedDecoder",
    "ResizedEncoder",
    "StillConvs",
    "TimmEncoder",
    "ViTDecoder",
    "ViTEncoder",
]
