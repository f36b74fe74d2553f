"""The demo's small model trained twice with the same settings and seeds: on vistok's VQ and on vector-quantize-pytorch's.

    python benchmarks/vq_vs_library.py [--steps 300] [--seeds 0 1 2] [--out benchmarks/results/vq_vs_library.csv]

Both are EMA codebooks of the demo recipe, initialised by k-means, with one rule for dead codes; the library's comes through
``External`` as anybody would use it. Held-out PSNR is that of ``vistok eval``: the mean over the held-out photographs, whole and
rounded to uint8. Usage is the share of codes chosen by the training photographs' tiles.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from vistok.bench.report import commit, today
from vistok.data import Photos, Tiles
from vistok.evaluation import CodebookUsage, evaluate
from vistok.recipes import find_recipe
from vistok.tokenizer import Tokenizer
from vistok.training import fit

CODES, DIM, DECAY = 1024, 16, 0.99
COMMITMENT = 0.25
TILE = 64

QUANTIZERS: dict[str, dict[str, Any]] = {
    "vistok": {
        "class_path": "vistok.quantizers.VQ",
        "init_args": {
            "codebook_size": CODES,
            "dim": DIM,
            "update": {"class_path": "vistok.quantizers.MovingAverage", "init_args": {"decay": DECAY}},
            "revive_after": 40,
        },
    },
    "vector-quantize-pytorch": {
        "class_path": "vistok.quantizers.External",
        "init_args": {
            "name": "VectorQuantize",
            "dim": DIM,
            # a code is replaced where the average of its count falls below the threshold: after 40 unused steps, as
            # above, a count of 1 has decayed to 0.99^40 = 0.67; 2 is what the library's documentation sets
            "arguments": {
                "codebook_size": CODES,
                "decay": DECAY,
                "kmeans_init": True,
                "threshold_ema_dead_code": 2,
                "commitment_weight": 1.0,
                "rotation_trick": False,
            },
        },
    },
}
LOSSES = {
    "vistok": {"l2": 1.0, "commitment": COMMITMENT},
    "vector-quantize-pytorch": {"l2": 1.0, "external": COMMITMENT},
}


def train(name: str, seed: int, steps: int) -> tuple[Tokenizer, int]:
    """A trained tokenizer and the steps that it took."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = yaml.safe_load(find_recipe("demo").read_text(encoding="utf-8"))
        recipe["seed_everything"] = seed
        recipe["trainer"] |= {
            "default_root_dir": f"{folder}/run",
            "max_steps": steps,
            "limit_val_batches": 0,
        }
        recipe["model"]["tokenizer"]["init_args"]["quantizer"] = QUANTIZERS[name]
        recipe["model"]["losses"]["init_args"]["weights"] = LOSSES[name]
        recipe["model"]["optimizer"] |= {"warmup_steps": min(50, steps // 6), "cosine_steps": steps}
        file = Path(folder) / "recipe.yaml"
        file.write_text(json.dumps(recipe), encoding="utf-8")
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
        for name in QUANTIZERS:
            tokenizer, steps = train(name, seed, arguments.steps)
            row = {"quantizer": name, "seed": seed, "steps": steps, **measure(tokenizer)}
            row |= {"torch": torch.__version__, "library": version("vector-quantize-pytorch")}
            rows.append(row | {"commit": commit(), "day": today()})
            print(
                f"{name:<24} seed {seed}: {row['held_out_psnr']:.2f} dB, usage {row['usage']:.3f}", flush=True
            )
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(arguments.out)


if __name__ == "__main__":
    main()
