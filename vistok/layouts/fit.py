"""Whether a layout fits a tokenizer: which of its streams it reads, and whether their tokens are of the kind that it writes."""

from __future__ import annotations

from vistok.errors import LayoutError
from vistok.layouts.template import StreamRule, Template, names
from vistok.spec import StreamSpec, TokenizerSpec

_KINDS = ("indices", "latents")


def fitting(spec: TokenizerSpec) -> list[str]:
    """The layouts that come with vistok whose streams this tokenizer has, by kind, topology and indices a position."""
    return [name for name in names() if not misfit(Template.named(name), spec)]


def matched(template: Template, spec: TokenizerSpec) -> dict[str, StreamSpec]:
    """The tokenizer's stream for each of the template's.

    Raises:
        LayoutError: one that is missing, that nobody reads, or whose tokens are not what the system takes.
    """
    reason = misfit(template, spec)
    if reason:
        others = ", ".join(fitting(spec))
        remedy = f"take a layout that fits it ({others})" if others else "write a template for it"
        raise LayoutError(f"{reason}: {remedy}, or take another tokenizer")
    found = {name: _read_by(template, name, spec) for name in template.streams}
    return {name: stream for name, stream in found.items() if stream is not None}


def misfit(template: Template, spec: TokenizerSpec) -> str:
    """The first thing about a tokenizer that a template cannot write, in words; empty where it fits."""
    has = f"tokenizer {spec.name!r} has {', '.join(stream.name for stream in spec.streams)}"
    told = all(rule.reads for rule in template.streams.values())
    if len(template.streams) < len(spec.streams) and not told:
        number = f"{len(template.streams)} stream{'s' * (len(template.streams) > 1)}"
        return f"{template.system} takes {number} and does not say which (reads: of a template), {has}"
    for name in template.streams:
        stream = _read_by(template, name, spec)
        if stream is None:
            return f"{template.system} takes a stream {template.streams[name].reads or name!r}, {has}"
        reason = _wrong_tokens(template.streams[name], template.topologies(name), stream)
        if reason:
            takes, is_ = reason
            return f"{template.system} takes {takes}, stream {stream.name!r} of tokenizer {spec.name!r} {is_}"
    return ""


def _read_by(template: Template, name: str, spec: TokenizerSpec) -> StreamSpec | None:
    wanted = template.streams[name].reads
    if not wanted and len(template.streams) == len(spec.streams) == 1:
        return spec.main
    return next((stream for stream in spec.streams if stream.name == (wanted or name)), None)


def _wrong_tokens(
    rule: StreamRule, topologies: tuple[str, ...], stream: StreamSpec
) -> tuple[str, str] | None:
    """What the rule takes and what the stream is, where they differ first."""
    latents = stream.codebook_size is None
    if rule.latents != latents:
        return _KINDS[rule.latents], f"has {_KINDS[latents]}"
    if stream.topology not in topologies:
        return f"tokens of topology {' or '.join(topologies)}", f"is {stream.topology}"
    if rule.combinator and stream.combinator not in rule.combinator:
        takes = " or ".join(rule.combinator)
        return f"indices of combinator {takes}", f"is {stream.combinator}"
    if stream.num_groups > 1 and not rule.groups:
        return "one index a position (a template takes more by groups:)", f"has {stream.num_groups}"
    if rule.split == "bits" and not stream.bits:
        return "bits", f"has none, its quantizer is {stream.quantizer or 'unknown'}"
    if rule.split and rule.split != "bits" and stream.codebook_size != 1 << sum(rule.split):
        return f"indices of {' + '.join(map(str, rule.split))} bits", f"has {stream.codebook_size} codes"
    return None
