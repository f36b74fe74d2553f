"""A tokenizer of each family at one small budget, on photographs that a package carries: what users argue about, side by side.

    python benchmarks/families/run.py [NAME ...] [--stamps DIR] [--steps 600] [--model-steps 400] [--out runs/families]

Each NAME.yaml here is an overlay of base.yaml: the same autoencoder, the same number of steps on crops of 64 pixels, another
quantizer, decoder or branch. Whole photographs are held out (coffee and china); their tiles of 64 pixels are what is measured.
A tokenizer that is finished in --out is kept, so that a run that stopped goes on.

``psnr``, ``perceptual`` (features of EfficientNet-Lite0), ``kd`` (kernel distance of its features), ``usage`` (share of the
codes chosen by the held-out tiles; of the first stream), ``bits_per_pixel``: as `vistok eval` has them. ``cosine``: of the features that a tokenizer with a feature
head predicts and those of its frozen teacher. ``bits_per_image``: held-out loss of a small transformer trained on its tokens, beside
``unigram``, that of the frequencies of the tokens; a continuous one has a flow loss instead, which no other unit compares with.
``retrieval``: how often the caption nearest to a held-out stamp is its own, and ``chance``.

Stamps with captions come from Debian's package, which --stamps names once it is unpacked; without it ``contrastive`` is left out:

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python benchmarks/families/run.py --stamps stamps/usr/share/tuxpaint/stamps
"""

import argparse
import csv
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor

from vistok import downstream, load
from vistok.backbones import SentenceTower, TimmEncoder
from vistok.bench.report import commit, machine, today
from vistok.data import ImageFolder, Photos, Tiles
from vistok.data.folder import caption_of
from vistok.evaluation import evaluate, retrieval
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.preprocess import to_pil
from vistok.training import fit

HERE = Path(__file__).parent
SIZE = 64
HELD_OUT_OF = 5  # every fifth caption
WITH_CAPTIONS = "contrastive"
METRICS = {"psnr": "psnr", "perceptual": "perceptual_efflite0", "kd": "kd_efflite0", "usage": "usage"}
SHOWN = 8


def names() -> list[str]:
    """The tokenizers, in the order of their families."""
    found = {
        path.stem: path.read_text().splitlines()[0] for path in HERE.glob("*.yaml") if path.stem != "base"
    }
    return sorted(found, key=lambda name: (found[name].split(":")[0], name))


def split_stamps(stamps: Path, out: Path) -> dict[str, Path]:
    """Folders of links to the stamps to train on and those held out, apart by caption; only those that have one."""
    folders = {side: out / "stamps" / side for side in ("train", "held_out")}
    for path in sorted(stamps.rglob("*.png")):
        caption = caption_of(path)
        if not caption:
            continue
        number = int(hashlib.sha256(caption.encode()).hexdigest(), 16)
        folder = folders["train" if number % HELD_OUT_OF else "held_out"]
        name = "_".join(path.relative_to(stamps).with_suffix("").parts)
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / f"{name}.png"
        if not link.exists():
            link.symlink_to(path.resolve())
            link.with_suffix(".txt").write_text(caption + "\n")
    return folders


def train(name: str, steps: int, out: Path, stamps: dict[str, Path] | None) -> tuple[Tokenizer, float]:
    """Trains a tokenizer, or takes the one that is there; the seconds that training took."""
    folder = out / name
    took = folder / "seconds.json"
    if took.is_file():
        return load(folder / "tokenizer"), float(json.loads(took.read_text()))
    more = ["--trainer.default_root_dir", str(folder), "--trainer.max_steps", str(steps)]
    more += ["--model.optimizer.cosine_steps", str(steps), "--model.optimizer.warmup_steps", str(steps // 20)]
    if name == WITH_CAPTIONS:
        assert stamps is not None
        more += ["--data.train", str(stamps["train"]), "--data.scale", "[0.7, 1.0]"]
    start = time.monotonic()
    fit([str(HERE / "base.yaml"), str(HERE / f"{name}.yaml")], more)
    seconds = time.monotonic() - start
    took.write_text(json.dumps(seconds))
    return load(folder / "tokenizer"), seconds


def cosine(tokenizer: Tokenizer, name: str, tiles: Tiles) -> float | None:
    """Mean cosine of predicted features and the teacher's over the tiles; None without a semantic loss."""
    recipe = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    semantic = recipe["model"].get("losses", {}).get("init_args", {}).get("semantic")
    if semantic is None:
        return None
    teacher = TimmEncoder(**semantic["init_args"]["teacher"]["init_args"]).eval()
    values = []
    with torch.inference_mode():
        for start in range(0, len(tiles), 16):
            x = torch.stack([tiles[i]["image"] for i in range(start, min(len(tiles), start + 16))])
            wanted = teacher(x).flatten(1, 2)
            values.append(torch.cosine_similarity(tokenizer.semantic(x), wanted, dim=-1).flatten())
    return float(torch.cat(values).mean())


def backbone_of(tokenizer: Tokenizer) -> str:
    """The one that is usual for its tokens."""
    if tokenizer.spec.kind == "continuous":
        return "diffusion"
    return "next-scale" if tokenizer.spec.main.topology == "multiscale" else "ar"


def measure(
    name: str, arguments: argparse.Namespace, stamps: dict[str, Path] | None
) -> tuple[dict[str, Any], Tensor]:
    """A row of the table; and originals, reconstructions and samples (3, SHOWN, 3, H, W)."""
    out = Path(arguments.out)
    tokenizer, seconds = train(name, arguments.steps, out, stamps)
    tiles = Tiles(Photos("held_out"), SIZE)
    found = evaluate(tokenizer, tiles, progress=False)
    spec = tokenizer.spec
    row: dict[str, Any] = {
        "tokenizer": name,
        "family": (HERE / f"{name}.yaml").read_text()[2:].split(":")[0],
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        "train_seconds": round(seconds, 1),
        "tokens": sum(
            int(tokens.values.shape[1]) for tokens in tokenizer.encode(tiles[0]["image"][None]).values()
        ),
        "bits_per_pixel": found["bits_per_pixel"],
        **{column: found[metric] if metric in found.metrics else None for column, metric in METRICS.items()},
        "cosine": cosine(tokenizer, name, tiles),
    }
    if name == WITH_CAPTIONS:
        assert stamps is not None
        held_out = ImageFolder(stamps["held_out"], policy=ImagePolicy(size=(SIZE, SIZE)))
        metric = retrieval(tokenizer, SentenceTower(), held_out)
        row |= {"retrieval": metric.value, "chance": float(metric.note.split()[-1])}
    result = downstream.run(
        tokenizer,
        "photos",
        backbone_of(tokenizer),
        seconds=None,
        steps=arguments.model_steps,
        size=SIZE,
        num_samples=SHOWN,
    )
    row |= {
        "backbone": result.backbone,
        "unit": result.unit,
        "loss": result.loss,
        "baseline": result.baseline,
        "bits_per_image": result.bits_per_image,
        "unigram": result.baseline if result.bits_per_image is not None else None,
        "steps": arguments.steps,
        "model_steps": arguments.model_steps,
        "protocol": found.metrics["psnr"].protocol,
        "dtype": spec.numerics.weights,
        "machine": machine("cpu"),
        "torch": torch.__version__,
        "commit": commit(),
        "day": today(),
    }
    step = max(1, len(tiles) // SHOWN)
    originals = torch.stack([tiles[i * step]["image"] for i in range(SHOWN)])
    with torch.inference_mode():
        reconstructed = tokenizer.decode(tokenizer.encode(originals))
    samples = result.samples if result.samples is not None else torch.ones_like(originals)
    return row, torch.stack([originals, reconstructed, samples[:SHOWN]])


def page(pictures: dict[str, Tensor], rows: list[dict[str, Any]]) -> Image.Image:
    """Originals on top; then a line a tokenizer: reconstructions, and samples of the model that learned its tokens."""
    left, gap, line = 190, 4, SIZE + 8
    sheet = Image.new("RGB", (left + 2 * SHOWN * (SIZE + gap) + 24, line * (len(rows) + 1) + 24), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 4), "reconstructions of held-out tiles", fill="black")
    draw.text((left + SHOWN * (SIZE + gap) + 24, 4), "samples of a model of its tokens", fill="black")

    def place(images: Tensor, column: int, y: int) -> None:
        for number, image in enumerate(images):
            sheet.paste(to_pil(image), (column + number * (SIZE + gap), y))

    draw.text((8, 24 + SIZE // 2), "originals", fill="black")
    place(next(iter(pictures.values()))[0], left, 24)
    for number, row in enumerate(rows):
        y = 24 + line * (number + 1)
        psnr = "" if row["psnr"] is None else f"{row['psnr']:.2f} dB"
        draw.text(
            (8, y + 12),
            f"{row['family']}  {row['tokenizer']}\n{psnr}  {row['bits_per_pixel']:.3f} bits/pixel",
            fill="black",
        )
        place(pictures[row["tokenizer"]][1], left, y)
        place(pictures[row["tokenizer"]][2], left + SHOWN * (SIZE + gap) + 24, y)
    return sheet


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    columns = (
        "tokens",
        "bits_per_pixel",
        "psnr",
        "perceptual",
        "kd",
        "usage",
        "cosine",
        "retrieval",
        "bits_per_image",
        "unigram",
    )
    digits = {"tokens": 0, "psnr": 2, "bits_per_image": 0, "unigram": 0}

    def cell(row: dict[str, Any], column: str) -> str:
        value = row.get(column)
        return "" if value is None else f"{value:.{digits.get(column, 3)}f}"

    lines = [f"| | family | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        lines.append(
            f"| {row['tokenizer']} | {row['family']} | {' | '.join(cell(row, c) for c in columns)} |"
        )
    return "\n".join(lines)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """All rows so far as CSV."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Trains, measures, and writes families.csv and families.jpg."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names())}")
    parser.add_argument("--stamps", type=Path, help="the unpacked package's folder of stamps")
    parser.add_argument("--steps", type=int, default=600, help="of training a tokenizer")
    parser.add_argument("--model-steps", type=int, default=400, help="of training a model on its tokens")
    parser.add_argument("--out", default="runs/families")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in names()]
    if unknown:
        parser.error(f"there is no tokenizer {unknown[0]!r}: choose among {', '.join(names())}")
    chosen = arguments.names or names()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    stamps = split_stamps(arguments.stamps, out) if arguments.stamps is not None else None
    if stamps is None and WITH_CAPTIONS in chosen:
        print(
            f"{WITH_CAPTIONS} is left out: it learns from stamps with captions, see --help", file=sys.stderr
        )
        chosen = [name for name in chosen if name != WITH_CAPTIONS]
    rows, pictures = [], {}
    for name in chosen:
        row, pictures[name] = measure(name, arguments, stamps)
        rows.append(row)
        write(rows, out / "families.csv")
        page(pictures, rows).save(out / "families.jpg", quality=90)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
