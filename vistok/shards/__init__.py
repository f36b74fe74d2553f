"""Token shards: datasets of images encoded to disk, safe against crashes, and read back in any order.

from vistok import shards

shards.encode(tokenizer, dataset, "tokens")
shards.verify("tokens")
tokens = shards.open("tokens")
tokens[0]["indices"], tokens["astronaut"]["grid"]
"""

from vistok.shards.claims import Slice
from vistok.shards.collate import collate, to_encoded
from vistok.shards.decode import DecodeSummary, decode
from vistok.shards.encode import EncodingInterrupted, encode
from vistok.shards.engines import Engine, LocalEngine
from vistok.shards.exports import ExportSummary, export
from vistok.shards.reader import ShardDataset, open
from vistok.shards.repair import RepairReport, repair
from vistok.shards.stream import ShardStream
from vistok.shards.summary import EncodeSummary
from vistok.shards.verify import VerifyReport, verify

__all__ = [
    "DecodeSummary",
    "EncodeSummary",
    "EncodingInterrupted",
    "Engine",
    "ExportSummary",
    "LocalEngine",
    "RepairReport",
    "ShardDataset",
    "ShardStream",
    "Slice",
    "VerifyReport",
    "collate",
    "decode",
    "encode",
    "export",
    "open",
    "repair",
    "to_encoded",
    "verify",
]
