"""The demo's small model trained twice with the same settings and seeds: on vistok's VQ and on vector-quantize-pytorch's.

    python benchmarks/vq_vs_library.py [--steps 300] [--seeds 0 1 2] [--out benchmarks/results/vq_vs_library.csv]

Both are EMA codebooks of the demo recipe, initialised by k-means, with dead codes left alone and with dead codes revived; the
library's comes through ``External`` as anybody would use it. Encoder and decoder start from the same weights in both. Held-out PSNR is that of ``vistok eval``: the mean over the held-out photographs, whole and
rounded to uint8. Usage is the share of codes chosen by the training photographs' tiles.
"""

import argparse
import csv
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from vistok.bench.report import commit, today
from vistok.data import Photos, Tiles
from vistok.evaluation import CodebookUsage, evaluate
from vistok.quantizers import VQ, External
from vistok.recipes import find_recipe
from vistok.tokenizer import Tokenizer
from vistok.training import fit

CODES, DIM, DECAY = 1024, 16, 0.99
COMMITMENT = 0.25
TILE = 64
REVIVE_AFTER = 10  # optimizer steps; the 40 of the demo suit its longer run

NAMES = ("vistok", "vector-quantize-pytorch")
LOSSES = {NAMES[0]: {"l2": 1.0, "commitment": COMMITMENT}, NAMES[1]: {"l2": 1.0, "external": COMMITMENT}}
# Dead codes are left alone, where both follow the same rule exactly, or revived, where each follows its own: vistok's by a
# window, the library's with the threshold that its documentation sets. Both are always reported.
DEAD_CODES = ("left", "revived")


def quantizer(name: str, dead_codes: str) -> dict[str, Any]:
    """The quantizer's part of the recipe."""
    revived = dead_codes == "revived"
    if name == "vistok":
        average = {"class_path": "vistok.quantizers.MovingAverage", "init_args": {"decay": DECAY}}
        arguments = {
            "codebook_size": CODES,
            "dim": DIM,
            "update": average,
            "revive_after": REVIVE_AFTER if revived else 0,
        }
        return {"class_path": "vistok.quantizers.VQ", "init_args": arguments}
    theirs = {
        "codebook_size": CODES,
        "decay": DECAY,
        "kmeans_init": True,
        "threshold_ema_dead_code": 2 if revived else 0,
        "commitment_weight": 1.0,
        "rotation_trick": False,
    }
    arguments = {"name": "VectorQuantize", "dim": DIM, "arguments": theirs}
    return {"class_path": "vistok.quantizers.External", "init_args": arguments}


@contextmanager
def drawing_apart(*classes: type) -> Iterator[None]:
    """Gives quantizers their own random numbers, so that what is built after them starts from the same weights with each."""
    before = {made: made.__init__ for made in classes}

    def apart(init: Callable[..., None]) -> Callable[..., None]:
        @wraps(init)
        def started(self: object, *arguments: Any, **named: Any) -> None:
            with torch.random.fork_rng(devices=[]):
                init(self, *arguments, **named)

        return started

    for made, init in before.items():
        made.__init__ = apart(init)  # type: ignore[misc]
    try:
        yield
    finally:
        for made, init in before.items():
            made.__init__ = init  # type: ignore[misc]


def train(name: str, dead_codes: str, seed: int, steps: int) -> tuple[Tokenizer, int]:
    """A trained tokenizer and the steps that it took."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = yaml.safe_load(find_recipe("demo").read_text(encoding="utf-8"))
        recipe["seed_everything"] = seed
        recipe["trainer"] |= {
            "default_root_dir": f"{folder}/run",
            "max_steps": steps,
            "limit_val_batches": 0,
        }
        recipe["model"]["tokenizer"]["init_args"]["quantizer"] = quantizer(name, dead_codes)
        recipe["model"]["losses"]["init_args"]["weights"] = LOSSES[name]
        recipe["model"]["optimizer"] |= {"warmup_steps": min(50, steps // 6), "cosine_steps": steps}
        file = Path(folder) / "recipe.yaml"
        file.write_text(json.dumps(recipe), encoding="utf-8")
        with drawing_apart(VQ, External):
            module, _ = fit([str(file)])
        return module.exported.eval(), module.step


@torch.no_grad()
def measure(tokenizer: Tokenizer) -> dict[str, float]:
    """Held-out PSNR, and how the training photographs use the codebook."""
    result = evaluate(
        tokenizer, Photos("held_out"), batch_size=1, perceptual=None, distribution=False, progress=False
    )
    size = tokenizer.quantizer.codebook_size
    assert size is not None
    usage = CodebookUsage(size)
    tiles = Tiles(Photos("train"), TILE)
    for start in range(0, len(tiles), 64):
        images = torch.stack([tiles[i]["image"] for i in range(start, min(start + 64, len(tiles)))])
        indices = tokenizer.encode(images).indices
        assert indices is not None
        usage.update(indices)
    return {
        "held_out_psnr": result.metrics["psnr"].value,
        "usage": usage.usage,
        "perplexity": usage.perplexity,
        "tokens": usage.num_tokens,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, measures, and writes one row per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vq_vs_library.csv")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for dead_codes, name in itertools.product(DEAD_CODES, NAMES):
            tokenizer, steps = train(name, dead_codes, seed, arguments.steps)
            row = {"quantizer": name, "dead_codes": dead_codes, "seed": seed, "steps": steps}
            row |= measure(tokenizer)
            row |= {"torch": torch.__version__, "library": version("vector-quantize-pytorch")}
            rows.append(row | {"commit": commit(), "day": today()})
            told = f"{row['held_out_psnr']:.2f} dB, usage {row['usage']:.3f}"
            print(f"{name:<24} dead codes {dead_codes}, seed {seed}: {told}", flush=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(arguments.out)


if __name__ == "__main__":
    main()
