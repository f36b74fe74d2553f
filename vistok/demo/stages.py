"""What each stage of the demo does; ``run`` puts them in order and remembers which are done."""

from __future__ import annotations

import csv
import json
import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vistok.data import open_images
from vistok.demo.photographs import TILE, Sources, tiles
from vistok.downstream import Budget, Point
from vistok.downstream.ar import Autoregressive
from vistok.downstream.baseline import entropy_bits, unigram_bits
from vistok.downstream.tokens import Tokens, decoded, read_tokens
from vistok.downstream.training import fit
from vistok.downstream.views import photo_name
from vistok.errors import VistokError
from vistok.evaluation import CodebookUsage, evaluate, round_to_uint8
from vistok.report.console import Console
from vistok.report.writing import write_text
from vistok.tokenizer import Tokenizer, load
from vistok.tokenizer.preprocess import to_pil

NUM_SAMPLES = 16
VALIDATED = 2


@dataclass(frozen=True)
class Job:
    """What every stage knows.

    Args:
        out: The demo's directory.
        recipe: Of the tokenizer.
        seconds: To train the tokenizer for; the downstream model gets half.
        sources: The photographs.
        console: To report to.
    """

    out: Path
    recipe: Path
    seconds: float
    sources: Sources
    console: Console

    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer, loaded as any user would."""
        return load(self.out / "tokenizer")


def train(job: Job) -> dict[str, Any]:
    """Trains the tokenizer for the stated time, from the last checkpoint if there is one.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
    """
    from vistok.demo.pace import Pace
    from vistok.training import LiveBar, build

    folder = job.out / "training"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    settings = {
        "trainer.default_root_dir": folder,
        "trainer.max_steps": 10**9,
        "trainer.check_val_every_n_epoch": "null",
        "trainer.num_sanity_val_steps": 0,
        "trainer.limit_val_batches": VALIDATED,
        "trainer.enable_model_summary": "false",
        "checkpoint.every": 200,
        "data.train": job.sources.train,
        "data.val": job.sources.held_out,
        "export.folder": job.out / "tokenizer",
    }
    overrides = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    if checkpoint.is_file():
        overrides += ["--ckpt_path", str(checkpoint)]
    with job.console.bar() as bar:
        pace = Pace(job.seconds, bar)
        command = build("fit", [str(job.recipe)], overrides, [pace])
        for callback in command.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LiveBar):
                callback.disable()  # ours counts seconds, not steps
        try:
            command.run()
        except SystemExit as stop:  # Lightning makes one of a Ctrl-C, and leaves the signal ignored
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
    if command.interrupt.interrupted:
        raise KeyboardInterrupt
    step = int(command.model.step)
    job.console.result(f"{job.out / 'tokenizer'}: {step} steps in {pace.elapsed:.0f} s")
    return {
        "recipe": job.recipe.name,
        "steps": step,
        "seconds": pace.elapsed,
        "batch_size": int(command.datamodule.batch_size),
    }


def reconstruct(job: Job) -> dict[str, Any]:
    """Puts the held-out photographs through the tokenizer and measures what comes back."""
    tokenizer = job.tokenizer()
    photos = open_images(
        job.sources.held_out, policy=tokenizer.spec.image, multiple_of=tokenizer.spec.multiple_of
    )
    evaluation = evaluate(
        tokenizer, photos, batch_size=1, perceptual=None, distribution=False, progress=False
    )
    folder = job.out / "held_out"
    folder.mkdir(exist_ok=True)
    pictures = []
    for index, (key, decibels) in enumerate(zip(evaluation.keys, evaluation.per_image["psnr"], strict=True)):
        image = photos[index]["image"][None]
        with torch.inference_mode():
            encoded = tokenizer.encode(image)
            back = round_to_uint8(tokenizer.decode(encoded))[0]
        name = photo_name(key)
        for kind, pixels in (("original", image[0]), ("reconstruction", back)):
            to_pil(pixels).save(folder / f"{name}-{kind}.png")
        tokens = [] if encoded.indices is None else encoded.indices_grid()[0].tolist()
        write_text(folder / f"{name}-tokens.json", json.dumps(tokens))
        pictures.append({"photo": name, "psnr": decibels})
        job.console.result(
            f"{folder / name}-reconstruction.png: {decibels:.2f} dB PSNR, {image.shape[-1]} x {image.shape[-2]} pixels"
        )
    protocol = evaluation.metrics["psnr"].protocol
    return {"pictures": pictures, "psnr": evaluation.metrics["psnr"].value, "protocol": protocol}


def encode(job: Job) -> dict[str, Any]:
    """Encodes all tiles to shards, verifies them, decodes them again and counts the codes.

    Raises:
        VistokError: shards that turn out to be damaged.
    """
    import vistok.shards

    tokenizer = job.tokenizer()
    dataset = tiles(open_images(job.sources.train), open_images(job.sources.held_out))
    shards = job.out / "shards"
    summary = vistok.shards.encode(tokenizer, dataset, shards, batch_size=64, progress=job.console.shown)
    report = vistok.shards.verify(shards)
    if not report.ok:
        raise VistokError(f"{shards} is damaged: {report.problems[0]}; delete it and run the demo again")
    decoded = vistok.shards.decode(
        tokenizer, shards, job.out / "decoded", batch_size=64, progress=job.console.shown
    )
    job.console.result(
        f"{shards}: {summary.num_encoded} tiles, {summary.num_tokens} tokens, {summary.bytes / 1e6:.1f} MB; verified"
    )
    job.console.result(f"{decoded.out_dir}: {decoded.num_images} tiles, decoded from the shards")
    usage = count_codes(shards, tokenizer)
    return {
        "num_tiles": summary.num_encoded,
        "num_tokens": summary.num_tokens,
        "num_shards": summary.num_shards,
        "bytes": summary.bytes,
        "verified": str(report).splitlines()[0].removeprefix(f"{shards}: "),
        "decoded": decoded.num_images,
        "counts": usage.counts[0].tolist(),
        "usage": usage.usage,
        "perplexity": usage.perplexity,
        "usage_set": f"{usage.num_tokens} tokens: all {TILE}-pixel tiles of the training photographs at full size",
    }


def count_codes(shards: Path, tokenizer: Tokenizer) -> CodebookUsage:
    """Counts of every code over the training photographs' plain tiles at full size."""
    import vistok.shards

    size = tokenizer.spec.main.codebook_size
    assert size is not None
    usage = CodebookUsage(size)
    for item in vistok.shards.open(shards):
        if item["split"] == "train" and item["view"] == "full":
            usage.update(item["indices"])
    return usage


def learn(job: Job) -> dict[str, Any]:
    """Trains the downstream model on the shards, and lets it draw."""
    tokenizer = job.tokenizer()
    size = tokenizer.spec.main.codebook_size
    assert size is not None
    tokens = read_tokens(job.out / "shards", tokenizer)
    train, held_out = tokens["train"], tokens["held_out"]
    num_tokens = train.values.shape[1]
    unigram = unigram_bits(train.values, held_out.values, size)
    model = Autoregressive.of(tokenizer, train)

    def told(step: int, share: float, nats: float, point: Point) -> None:
        bar.show(
            share,
            f"step {step}  {nats / math.log(2):.2f} bits/token  held-out {point.held_out / num_tokens:.2f}  "
            f"(unigram {unigram:.2f})",
        )

    with job.console.bar() as bar:
        looks = fit(
            model,
            model.inputs(train),
            model.inputs(held_out),
            Budget(seconds=job.seconds / 2),
            told,
            whole=True,
        )
    # the models count by image
    points = [Point(look.step, look.train / num_tokens, look.held_out / num_tokens) for look in looks]
    _write_points(job.out / "downstream.csv", points)
    paths = _draw(model, tokenizer, held_out, job.out / "samples")
    last = points[-1]
    verdict = "below" if last.held_out < unigram else "NOT below"
    job.console.result(
        f"{last.held_out:.2f} bits per held-out token, {verdict} the {unigram:.2f} bits of the unigram distribution"
    )
    job.console.result(f"{job.out / 'samples'}: {len(paths)} drawn tiles")
    return {
        "loss_bits_per_token": last.held_out,
        "unigram_bits_per_token": unigram,
        "evaluated_on": f"{len(held_out)} tiles of the held-out photographs, {held_out.values.numel()} tokens; the "
        "unigram distribution is that of the training tokens, add-one smoothed",
        "unigram_entropy_bits_per_token": entropy_bits(held_out.values, size),
        "train_loss_bits_per_token": last.train,
        "train_unigram_bits_per_token": unigram_bits(train.values, train.values, size),
        "train_tiles": len(train),
        "steps": last.step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": [str(path.relative_to(job.out)) for path in paths],
    }


def _write_points(path: Path, points: list[Point]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train_bits", "held_out_bits"])
        writer.writerows([p.step, p.train, p.held_out] for p in points)


def _draw(model: Autoregressive, tokenizer: Tokenizer, like: Tokens, folder: Path) -> list[Path]:
    # from the whole distribution: what the model believes, not its favourites
    pixels = decoded(tokenizer, like, like.of_streams(model.sample(NUM_SAMPLES).streams))
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:02d}.png" for number in range(NUM_SAMPLES)]
    pictures: list[Image.Image] = [to_pil(picture) for picture in pixels]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths
