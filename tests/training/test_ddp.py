"""Two processes that share a batch do what one does with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.parts import (
    make_adversarial,
    make_data,
    make_module,
    make_tokenizer,
    make_trainer,
    weights,
)
from vistok import load
from vistok.quantizers import VQ, Gaussian
from vistok.training import SaveTokenizer

STEPS = 4
# each with what processes must agree on: k-means, EMA codes, revival, LeCAM, the adaptive weight, noise of each image
CASES = {
    "vq": (lambda: VQ(16, 4, update="ema", revive_after=2), {"lecam_weight": 0.1}),
    "gaussian": (lambda: Gaussian(4), {}),
}


def train(case: str, folder: Path, devices: int) -> None:
    """Trains and exports one of the cases, and saves what tests compare."""
    torch.manual_seed(0)
    quantizer, options = CASES[case]
    module = make_module(
        tokenizer=make_tokenizer(quantizer()),
        adversarial=make_adversarial(start=1, adaptive=True, **options),
        ema_decay=0.9,
        accumulate=2,
    )
    before = weights(module)
    # plain gradient descent: Adam would blow rounding of tiny gradients up to the size of a step
    module.configure_optimizers = lambda: [
        torch.optim.SGD(part.parameters(), lr=1e-2) for part in (module.tokenizer, module.adversarial)
    ]
    strategy = "ddp" if devices > 1 else "auto"
    export = SaveTokenizer(str(folder / f"tokenizer{devices}"), latent_batches=3)
    trainer = make_trainer(
        folder, STEPS, devices=devices, strategy=strategy, val_check_interval=4, callbacks=[export]
    )
    trainer.fit(module, make_data(val="procedural:3", batch_size=4))
    if trainer.is_global_zero:
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        found = {"before": before, "weights": weights(module), "step": module.step, "metrics": metrics}
        torch.save(found, folder / f"{devices}.pt")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(tmp_path, case):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path[1:]]),
    }
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_PORT", "WORLD_SIZE"):
        environment.pop(name, None)
    train(case, tmp_path, 1)
    command = [sys.executable, "-m", "tests.training.test_ddp", case, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert one["step"] == two["step"] == STEPS
    for part in (
        "tokenizer.encoder",
        "tokenizer.decoder",
        "tokenizer.quantizer",
        "adversarial",
        "ema.average.encoder",
    ):
        assert_moved_alike(part, one, two)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-3)
    if case == "gaussian":
        first, second = (load(tmp_path / f"tokenizer{devices}").spec for devices in (1, 2))
        assert (
            first.provenance["latent_statistics"] == second.provenance["latent_statistics"] == {"images": 12}
        )
        assert second.latents.scale == pytest.approx(first.latents.scale, rel=1e-3)
        assert max(first.latents.scale) != 1.0


def assert_moved_alike(part: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    """All weights of a part moved, and differ by less than a thousandth of the largest movement."""
    names = [name for name in one["weights"] if name.startswith(part)]
    movement, difference = 0.0, 0.0
    for name in names:
        a, b, start = (values[name].double() for values in (one["weights"], two["weights"], one["before"]))
        movement = max(movement, float((a - start).abs().max()))
        difference = max(difference, float((a - b).abs().max()))
    assert (movement > 0 and difference < 1e-3 * movement) or not names, (part, movement, difference)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), 2)
