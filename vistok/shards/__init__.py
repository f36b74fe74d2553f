"""Token shards: datasets of images encoded to disk, safe against crashes, and read back in any order.

from vistok import shards

shards.encode(tokenizer, dataset, "tokens")
shards.verify("tokens")
tokens = shards.open("tokens")
tokens[0]["indices"], tokens["astronaut"]["grid"]
"""

from vistok.shards.collate import collate, to_encoded
from vistok.shards.decode import DecodeSummary, decode
from vistok.shards.encode import EncodeSummary, EncodingInterrupted, encode
from vistok.shards.exports import ExportSummary, export
from vistok.shards.reader import ShardDataset, open
from vistok.shards.stream import ShardStream
from vistok.shards.verify import VerifyReport, verify

__all__ = [
    "DecodeSummary",
    "EncodeSummary",
    "EncodingInterrupted",
    "ExportSummary",
    "ShardDataset",
    "ShardStream",
    "VerifyReport",
    "collate",
    "decode",
    "encode",
    "export",
    "open",
    "to_encoded",
    "verify",
]
