"""What an evaluation gives: numbers that each say how they were made."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Args:
        value: In the unit of the metric.
        protocol: Everything that another number of that name must share to be comparable.
        note: What a reader must know before trusting it; empty if nothing.
    """

    value: float
    protocol: str
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one tokenizer on one dataset.

    Args:
        tokenizer: Its name.
        weights_hash: Of its spec, so that the numbers belong to these weights and no others.
        num_images: How many were seen.
        metrics: By name.
        per_image: For each metric that has them, its value for each image, in the order of ``keys``.
        keys: Of the images.
        left_out: Why a metric is missing, by name.
    """

    tokenizer: str
    weights_hash: str
    num_images: int
    metrics: dict[str, Metric]
    per_image: dict[str, list[float]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def records(self) -> list[dict[str, Any]]:
        """The metrics as ``TokenizerSpec.metrics`` keeps them: name, value (None if not finite), protocol and note."""
        return [
            {"name": name, **_finite(dataclasses.asdict(metric))} for name, metric in self.metrics.items()
        ]

    def to_json(self, indent: int | None = 2) -> str:
        """Everything as strict JSON; numbers that are not finite become null."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=indent, allow_nan=False)

    def table(self) -> str:
        """The metrics as plain text, one line each, columns aligned."""
        rows = [("metric", "value", "protocol", "")]
        rows += [
            (name, f"{m.value:.6g}", m.protocol, f"({m.note})" if m.note else "")
            for name, m in self.metrics.items()
        ]
        rows += [(name, "-", f"left out: {why}", "") for name, why in self.left_out.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{name:<{widths[0]}}  {value:>{widths[1]}}  {protocol:<{widths[2]}}  {note}".rstrip()
            for name, value, protocol, note in rows
        ]
        return "\n".join([f"{self.tokenizer} ({self.weights_hash[:12]}), {self.num_images} images", *lines])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
