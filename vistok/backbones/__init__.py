"""Encoders, decoders, feature heads, projections and text towers: images to latents, and quantized vectors back."""

from vistok.backbones.attention_projection import AttentionProjection
from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.backbones.contrastive_head import ContrastiveHead
from vistok.backbones.conv import ConvDecoder, ConvEncoder
from vistok.backbones.feature_decoder import FeatureDecoder
from vistok.backbones.flow_decoder import FlowDecoder
from vistok.backbones.hybrid import HybridDecoder, HybridEncoder
from vistok.backbones.projection import MLP, Linear
from vistok.backbones.sentence_tower import SentenceTower
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
    "Decoder",
    "Encoder",
    "FeatureDecoder",
    "FeatureHead",
    "FlowDecoder",
    "HybridDecoder",
    "HybridEncoder",
    "Linear",
    "SentenceTower",
    "TextTower",
    "TimmEncoder",
    "ViTDecoder",
    "ViTEncoder",
]
