"""Encoders, decoders, feature heads, projections and text towers: images to latents, and quantized vectors back."""

from vistok.backbones.attention_projection import AttentionProjection
from vistok.backbones.base import Decoder, Encoder, EncoderOutput, FeatureHead
from vistok.backbones.contrastive_head import ContrastiveHead
from vistok.backbones.conv import ConvDecoder, ConvEncoder
from vistok.backbones.dc_ae import DCDecoder, DCEncoder
from vistok.backbones.feature_decoder import FeatureDecoder
from vistok.backbones.flow_decoder import FlowDecoder
from vistok.backbones.hybrid import HybridDecoder, HybridEncoder
from vistok.backbones.joined_encoder import JoinedEncoder
from vistok.backbones.mae_decoder import MAEDecoder
from vistok.backbones.mask_tokens import MaskTokenDecoder, MaskTokenHead
from vistok.backbones.modulated import ModulatedDecoder, StillConvs
from vistok.backbones.pooled_encoder import PooledEncoder
from vistok.backbones.positionwise_head import PositionwiseHead
from vistok.backbones.projection import MLP, Linear
from vistok.backbones.query_encoder import QueryEncoder
from vistok.backbones.resized import ResizedEncoder
from vistok.backbones.selecting_encoder import SelectingEncoder
from vistok.backbones.sentence_tower import SentenceTower
from vistok.backbones.soft_codes import SoftCodes
from vistok.backbones.text_tower import ByteTower, TextTower
from vistok.backbones.timm_encoder import TimmEncoder
from vistok.backbones.vit import ViTDecoder, ViTEncoder

__all__ = [
    "MLP",
    "AttentionProjection",
    "ByteTower",
    "ContrastiveHead",
    "ConvDecoder",
    "ConvEncoder",
    "DCDecoder",
    "DCEncoder",
    "Decoder",
    "Encoder",
    "EncoderOutput",
    "FeatureDecoder",
    "FeatureHead",
    "FlowDecoder",
    "HybridDecoder",
    "HybridEncoder",
    "JoinedEncoder",
    "Linear",
    "MAEDecoder",
    "MaskTokenDecoder",
    "MaskTokenHead",
    "ModulatedDecoder",
    "PooledEncoder",
    "PositionwiseHead",
    "QueryEncoder",
    "ResizedEncoder",
    "SelectingEncoder",
    "SentenceTower",
    "SoftCodes",
    "StillConvs",
    "TextTower",
    "TimmEncoder",
    "ViTDecoder",
    "ViTEncoder",
]
