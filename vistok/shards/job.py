"""What an engine is told: the run, and which of its shards are to be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from vistok.shards.claims import ALL, Slice
from vistok.shards.container import Origin
from vistok.shards.failures import OnError
from vistok.shards.latents import FLOAT32, LatentFormat
from vistok.shards.loading import KeyedImages
from vistok.shards.plan import Plan
from vistok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Output:
    """Where shards go and what they are.

    Args:
        out: The directory; engines find it described and claimed.
        plan: Which image goes to which shard.
        container: Name of the file format.
        origin: What shards say of where they come from.
        part: The slice that this run has claimed.
    """

    out: Path
    plan: Plan
    container: str
    origin: Origin
    part: Slice = ALL

    @property
    def fingerprint(self) -> str:
        """Hash that each sidecar carries."""
        return self.origin.fingerprint


@dataclass(frozen=True)
class Job:
    """One run of an engine; it can be pickled.

    Args:
        tokenizer: In the precision and on the device that it is to run in.
        dataset: Images of the plan's keys.
        output: Where shards go.
        batch_size: Images of equal size that are encoded together.
        on_error: What happens to an image that cannot be encoded.
        max_error_rate: Share of the slice's images, in [0, 1], that may be skipped before the run ends.
        num_skipped: Images that committed shards have skipped already.
        compile: Whether the encoder is compiled, where it runs.
        latents: How the latents of a continuous tokenizer are stored.
    """

    tokenizer: Tokenizer
    dataset: KeyedImages
    output: Output
    batch_size: int
    on_error: OnError = "raise"
    max_error_rate: float = 0.05
    num_skipped: int = 0
    compile: bool = False
    latents: LatentFormat = FLOAT32


@contextlib.contextmanager
def evaluating(tokenizer: Tokenizer) -> Iterator[None]:
    """Evaluation and inference mode; each submodule gets its own mode back."""
    modes = {module: module.training for module in tokenizer.modules()}
    tokenizer.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
