"""Two processes that share a batch do what one does with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
from vistok.quantizers import VQ

STEPS = 4


def train(folder: Path, devices: int) -> None:
    """Trains with everything that processes must agree on: k-means, EMA codes, revival, a discriminator with LeCAM."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(VQ(16, 4, update="ema", revive_after=2))
    adversarial = make_adversarial(start=1, adaptive=False, lecam_weight=0.1)
    module = make_module(tokenizer=tokenizer, adversarial=adversarial, ema_decay=0.9, accumulate=2)
    # plain gradient descent: Adam would blow rounding of tiny gradients up to the size of a step
    module.configure_optimizers = lambda: [
        torch.optim.SGD(part.parameters(), lr=1e-2) for part in (module.tokenizer, module.adversarial)
    ]
    strategy = "ddp" if devices > 1 else "auto"
    trainer = make_trainer(folder, STEPS, devices=devices, strategy=strategy, val_check_interval=4)
    trainer.fit(module, make_data(val="procedural:3", batch_size=4))
    if trainer.is_global_zero:
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        torch.save(
            {"weights": weights(module), "step": module.step, "metrics": metrics}, folder / f"{devices}.pt"
        )


def test_two_processes_equal_one(tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path[1:]]),
    }
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_PORT", "WORLD_SIZE"):
        environment.pop(name, None)
    train(tmp_path, 1)
    command = [sys.executable, "-m", "tests.training.test_ddp", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert one["step"] == two["step"] == STEPS
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, atol=2e-5, rtol=1e-3, msg=name)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-3)


if __name__ == "__main__":
    train(Path(sys.argv[1]), 2)
