"""Token shards as the files of other training code: ``shards.export("tokens", exports.Megatron(), "out")``."""

from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.lightningdit import LightningDiT
from vistok.shards.exports.litdata import LitData
from vistok.shards.exports.llamagen import LlamaGen
from vistok.shards.exports.mar import MAR
from vistok.shards.exports.mds import MDS
from vistok.shards.exports.megatron import Megatron
from vistok.shards.exports.nanotron import Nanotron
from vistok.shards.exports.numbering import TokenNumbering
from vistok.shards.exports.parquet import Parquet
from vistok.shards.exports.run import ExportSummary, export
from vistok.shards.exports.titok import TiTok

# a new format is its file and a place in this list
_ALL: tuple[type[ExportFormat], ...] = (
    Parquet,
    Megatron,
    Nanotron,
    LlamaGen,
    MAR,
    LightningDiT,
    TiTok,
    LitData,
    MDS,
)
FORMATS = {format_class.name: format_class for format_class in _ALL}

__all__ = [
    "FORMATS",
    "MAR",
    "MDS",
    "ExportFormat",
    "ExportSummary",
    "LightningDiT",
    "LitData",
    "LlamaGen",
    "Megatron",
    "Nanotron",
    "Parquet",
    "TiTok",
    "TokenNumbering",
    "export",
]
