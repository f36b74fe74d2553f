"""What happens to an image that cannot be encoded: the run ends, or the image is left out and its reason recorded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vistok.errors import ShardError
from vistok.shards.commit import replacing, write_file
from vistok.shards.loading import Loaded

OnError = Literal["raise", "skip", "quarantine"]
QUARANTINE = "quarantine"


class Failures:
    """Keeps to an error policy.

    Args:
        policy: ``raise`` ends the run at the first failure; ``skip`` records key and reason in the shard's sidecar;
            ``quarantine`` does so too, and puts the reason and what was read of the image into ``quarantine/``.
        max_rate: Share of the plan's images, in [0, 1], that may fail before the run ends.
        num_samples: Images of the plan.
        num_before: Images that committed shards have left out already.
        out: The output directory.
    """

    def __init__(
        self, policy: OnError, max_rate: float, num_samples: int, num_before: int, out: Path
    ) -> None:
        if policy not in get_args(OnError):
            raise ShardError(f"on_error must be one of {', '.join(get_args(OnError))}, it is {policy!r}")
        if not 0 <= max_rate <= 1:
            raise ShardError(f"max_error_rate must lie in [0, 1], it is {max_rate}")
        self._policy, self._max_rate, self._num_samples, self._out = policy, max_rate, num_samples, out
        self.count = num_before
        self._of_shard: dict[str, str] = {}

    def add(self, sample: Loaded, reason: str) -> None:
        """Notes a failure.

        Raises:
            ShardError: the policy is ``raise``, or too many have failed.
        """
        if self._policy == "raise":
            raise ShardError(
                f"image {sample.key!r} cannot be encoded: {reason}; on_error='skip' (--on-error skip) "
                "leaves such images out"
            )
        self.count += 1
        self._of_shard[sample.key] = reason
        if self._policy == "quarantine":
            self._quarantine(sample, reason)
        if self.count > self._max_rate * self._num_samples:
            raise ShardError(
                f"{self.count} of {self._num_samples} images cannot be encoded, more than max_error_rate="
                f"{self._max_rate:g} (--max-error-rate) allows; the last was {sample.key!r}: {reason}"
            )

    def take(self) -> dict[str, str]:
        """Reason by key of the failures since the last call: those of one shard."""
        taken, self._of_shard = self._of_shard, {}
        return taken

    def _quarantine(self, sample: Loaded, reason: str) -> None:
        folder = self._out / QUARANTINE
        folder.mkdir(exist_ok=True)
        seen = sample.image if sample.image is not None else sample.seen
        if seen is not None:
            buffer = io.BytesIO()
            np.save(buffer, seen.detach().cpu().float().numpy(), allow_pickle=False)
            with replacing(folder / f"{sample.number:09d}.npy") as file:
                file.write(buffer.getvalue())
        text = json.dumps({"key": sample.key, "reason": reason}, sort_keys=True)
        write_file(folder / f"{sample.number:09d}.json", text + "\n")
