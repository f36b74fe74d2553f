"""Trains one backbone on one tokenizer's tokens, and lets it draw."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import torch

from vistok.downstream.ar import Autoregressive
from vistok.downstream.base import Backbone
from vistok.downstream.diffusion import Diffusion
from vistok.downstream.images import Images, prepare
from vistok.downstream.masked import Masked
from vistok.downstream.mixed import Mixed
from vistok.downstream.next_scale import NextScale
from vistok.downstream.result import Result
from vistok.downstream.tokens import Tokens, decoded
from vistok.downstream.training import Budget, Point, fit
from vistok.errors import TokenizerError, VistokError
from vistok.report.console import Bar, Console
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Encoded, Tokenizer

BACKBONES: dict[str, type[Backbone]] = {
    backbone.name: backbone for backbone in (Autoregressive, Masked, NextScale, Diffusion, Mixed)
}
SECONDS = 120.0
NUM_SAMPLES = 16


def run(
    tokenizer: Tokenizer,
    images: Images = "photos",
    backbone: str = "ar",
    *,
    seconds: float | None = SECONDS,
    steps: int | None = None,
    seed: int = 0,
    size: int | None = None,
    num_samples: int = NUM_SAMPLES,
    out: str | Path | None = None,
    progress: bool = False,
) -> Result:
    """Trains a backbone on the tokens of images and measures what held-out images cost it.

    Args:
        tokenizer: Whose tokens; the backbone is trained on its device.
        images: A dataset, what ``open_images`` takes, or a directory of shards that this tokenizer made.
        backbone: ``ar``, ``masked``, ``next-scale``, ``diffusion`` or ``mixed``.
        seconds: To train for, without encoding and drawing; None: ``steps`` alone decide.
        steps: At most so many.
        seed: Of weights, order and draws. With ``steps`` alone, the same numbers on the same machine.
        size: Side of the images in pixels; default: the tokenizer's, or what makes 8 x 8 positions, at least 32.
        num_samples: Images to draw.
        out: Where shards are kept; None: nowhere.
        progress: Say what happens.

    Raises:
        TokenizerError: a tokenizer that the backbone does not take.
        VistokError: no such backbone, or images that cannot be used.
    """
    kind, budget = backbone_for(tokenizer.spec, backbone), Budget(seconds, steps)
    console = Console(num_stages=3, shown=progress)
    device = tokenizer.device
    with contextlib.ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        console.stage("Read the tokens of the images")
        tokens = prepare(
            tokenizer, images, folder, size=size, captions=kind.needs_captions, progress=progress
        )
    train, held_out = tokens["train"], tokens["held_out"]
    console.result(f"{len(train)} images to train on, {len(held_out)} of other pictures held out")
    torch.manual_seed(seed)
    model = kind.of(tokenizer, train).to(device)
    baselines = model.baselines(train, held_out)
    inputs, looked_at = model.inputs(train), model.inputs(held_out)
    console.stage(f"Train the backbone {backbone} for {budget}")
    start = time.monotonic()
    with console.bar() as bar:
        told = _Progress(bar, model, baselines)
        points = fit(model, inputs, looked_at, budget, told, seed)
    elapsed = time.monotonic() - start
    console.stage(f"Draw {num_samples} images")
    with console.bar() as bar:
        drawn = model.sample(num_samples, seed, lambda share: bar.show(share, "drawing"))
    sample_tokens = held_out.of_streams(drawn.streams)
    samples, real = _pictures(tokenizer, held_out, sample_tokens)
    return Result(
        tokenizer=tokenizer.spec.name,
        weights_hash=tokenizer.spec.weights_hash,
        backbone=backbone,
        unit=kind.unit,
        is_bound=kind.is_bound,
        loss=points[-1].held_out,
        train_loss=points[-1].train,
        baselines=baselines,
        details=model.details(looked_at),
        points=points,
        num_train=len(train),
        num_held_out=len(held_out),
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=elapsed,
        sample_tokens=sample_tokens,
        captions=drawn.captions,
        samples=samples,
        real=real,
        held_out=held_out,
    )


def backbone_for(spec: TokenizerSpec, name: str) -> type[Backbone]:
    """The class of a backbone, if it takes a tokenizer.

    Raises:
        VistokError: there is none of that name.
        TokenizerError: it does not; the message names those that do.
    """
    if name not in BACKBONES:
        raise VistokError(f"there is no backbone {name!r}: choose one of {', '.join(BACKBONES)}")
    if any(stream.topology == "ragged" for stream in spec.streams):
        raise TokenizerError(
            f"{spec.name} gives tokens in varying number, which no backbone here reads: "
            "encode with it to shards and train a language model on those"
        )
    kind = BACKBONES[name]
    if not kind.takes(spec):
        fitting = [other for other, backbone in BACKBONES.items() if backbone.takes(spec)]
        remedy = (
            f"choose {' or '.join(fitting)}"
            if fitting
            else "none here does, choose a tokenizer of one stream"
        )
        raise TokenizerError(
            f"backbone {name} is for {kind.fits}, and {spec.name} is {_described(spec)}: {remedy}"
        )
    return kind


def _described(spec: TokenizerSpec) -> str:
    if len(spec.streams) > 1:
        names = ", ".join(stream.name for stream in spec.streams)
        return f"of {len(spec.streams)} streams ({names})"
    if spec.main.codebook_size is None:
        return "continuous"
    return f"discrete, of {'several scales' if spec.main.topology == 'multiscale' else 'one scale'}"


def _pictures(
    tokenizer: Tokenizer, held_out: Tokens, drawn: Encoded
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Pictures of what was drawn and of as many held-out images, evenly chosen."""
    if tokenizer.spec.decoding.kind != "pixels":
        return None, None
    count = min(drawn.batch_size, len(held_out))
    chosen = held_out.some(torch.arange(count) * len(held_out) // count)
    return decoded(tokenizer, held_out, drawn), decoded(tokenizer, held_out, chosen)


class _Progress:
    """Shows the last look in the bar."""

    def __init__(self, bar: Bar, model: Backbone, baselines: dict[str, float]) -> None:
        self._bar, self._unit = bar, model.unit
        self._name, self._baseline = next(iter(baselines.items()))

    def __call__(self, step: int, share: float, loss: float, point: Point) -> None:
        digits = 1 if self._unit == "bits/image" else 3
        self._bar.show(
            share,
            f"step {step}  loss {loss:.3f}  held-out {point.held_out:.{digits}f} {self._unit}  "
            f"({self._name} {self._baseline:.{digits}f})",
        )
