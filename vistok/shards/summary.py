"""What is in an output directory after a run, and how fast it went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vistok.shards.sidecar import Sidecar


@dataclass(frozen=True)
class EncodeSummary:
    """What is in the output directory after a run; always num_images = num_encoded + num_skipped.

    Args:
        out: The directory.
        num_images: Images of the plan; of a job of an array, those of its slice, as all that follows.
        num_encoded: Images that the shards hold.
        num_skipped: Images that they do not hold; each shard's sidecar tells why.
        num_shards: Shards of the plan, all committed.
        num_shards_new: Those that this run made.
        num_tokens: Positions of all images and streams.
        bytes: Size of all shards.
        seconds: Time that this run took for the shards that it made.
        images_per_second: Speed of this run; 0 if it made nothing.
        tokens_per_second: The same in tokens.
        model_share: Part of ``seconds``, in [0, 1], in which the model ran; the rest is waiting for images and the disk.
    """

    out: Path
    num_images: int
    num_encoded: int
    num_skipped: int
    num_shards: int
    num_shards_new: int
    num_tokens: int
    bytes: int
    seconds: float
    images_per_second: float
    tokens_per_second: float = 0.0
    model_share: float = 0.0

    @classmethod
    def of(
        cls,
        out: Path,
        sidecars: Sequence[Sidecar],
        new: Sequence[Sidecar],
        seconds: float,
        model_seconds: float,
    ) -> EncodeSummary:
        """From the records of all shards and of the new ones."""
        images, tokens = sum(s.n_in for s in new), sum(s.num_tokens for s in new)
        return cls(
            out=out,
            num_images=sum(s.n_in for s in sidecars),
            num_encoded=sum(s.n_out for s in sidecars),
            num_skipped=sum(len(s.skipped) for s in sidecars),
            num_shards=len(sidecars),
            num_shards_new=len(new),
            num_tokens=sum(s.num_tokens for s in sidecars),
            bytes=sum(s.bytes for s in sidecars),
            seconds=seconds,
            images_per_second=images / seconds if images else 0.0,
            tokens_per_second=tokens / seconds if tokens else 0.0,
            model_share=min(1.0, model_seconds / seconds) if images else 0.0,
        )

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps({**asdict(self), "out": str(self.out)}, indent=1)

    def __str__(self) -> str:
        skipped = f", {self.num_skipped} skipped" if self.num_skipped else ""
        text = (
            f"{self.out}: {self.num_encoded} of {self.num_images} images{skipped} in {self.num_shards} shards, "
            f"{self.num_tokens} tokens, {self.bytes / 1e6:.1f} MB"
        )
        if not self.num_shards_new:
            return f"{text}; all of it was there already"
        return (
            f"{text}; {self.num_shards_new} new in {self.seconds:.1f} s ({self.images_per_second:.1f} images/s, "
            f"{self.tokens_per_second:,.0f} tokens/s, model busy {self.model_share:.0%})"
        )
