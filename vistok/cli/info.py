"""``vistok info``: what a tokenizer is, from its spec."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vistok.cli import OK

if TYPE_CHECKING:
    from vistok.spec import StreamSpec, TokenizerSpec


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("tokenizer", metavar="T", help="directory, or Hugging Face Hub id")
    parser.add_argument("--json", action="store_true", help="print the whole spec as JSON")


def run(command: str, arguments: argparse.Namespace) -> int:
    """Prints the spec."""
    from vistok.tokenizer import load

    spec = load(arguments.tokenizer).spec
    print(spec.to_json() if arguments.json else table(spec))
    return OK


def table(spec: TokenizerSpec) -> str:
    """The spec as aligned lines, leaving out what does not apply."""
    size = "any" if spec.image.size is None else f"{spec.image.size[0]} x {spec.image.size[1]}"
    rows = [
        ("name", f"{spec.name} ({spec.kind})"),
        ("weights", f"sha256 {spec.weights_hash[:16]}, {spec.numerics.weights}"),
        ("licence", spec.licence),
        (
            "images",
            f"{size} pixels, multiples of {spec.multiple_of}, fit by {spec.image.fit}, {spec.image.interpolation}",
        ),
    ]
    rows += [(f"stream {stream.name}", _stream(stream)) for stream in spec.streams]
    if spec.latents is not None:
        rows.append(("latents", f"{spec.latents.channels} channels, {spec.latents.layout}"))
    features = [f"{name} {dim}" for name, dim in vars(spec.features).items() if dim]
    rows.append(("features", ", ".join(features) or "none"))
    rows.append(("decodes to", spec.decoding.kind))
    rows += [(key.replace("_", " "), str(value)) for key, value in spec.provenance.items()]
    rows += [(str(metric.get("name")), _metric(metric)) for metric in spec.metrics]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _metric(metric: Mapping[str, Any]) -> str:
    value = metric.get("value")
    told = f"{value:.6g}" if isinstance(value, float) else str(value)
    where = f" on {metric['data']}" if metric.get("data") else ""
    note = f", {metric['note']}" if metric.get("note") else ""
    return f"{told}{where} ({metric.get('protocol')}{note})"


def _stream(stream: StreamSpec) -> str:
    parts = [stream.quantizer, stream.role]
    parts.append(f"K = {stream.codebook_size}" if stream.codebook_size is not None else "continuous")
    parts.append(f"dim {stream.dim}")
    if stream.num_groups > 1:
        parts.append(f"{stream.num_groups} indices per position ({stream.combinator})")
    if stream.levels:
        parts.append(f"levels {' x '.join(map(str, stream.levels))}")
    if stream.bits:
        parts.append(f"{stream.bits} bits")
    if stream.children:
        parts.append(f"{stream.children} children a parent")
    if stream.scales:
        parts.append(f"scales {' '.join(map(str, stream.scales))}")
    if stream.metric:
        parts.append(stream.metric)
    parts.append(_positions(stream))
    return ", ".join(parts)


def _positions(stream: StreamSpec) -> str:
    """How many tokens there are, and where they lie."""
    if stream.topology == "1d":
        return f"{stream.max_tokens} tokens in a sequence, {stream.order}"
    if stream.topology == "ragged":
        return f"up to {stream.max_tokens} tokens in a sequence, {stream.order}"
    told = f"{stream.topology} grid"
    if stream.factor:
        told += f", 1 token per {stream.factor} x {stream.factor} pixels"
    if stream.pools:
        told += f", or per {', '.join(str(side * stream.factor) for side in stream.pools[1:])} pixels along each side"
    return told
