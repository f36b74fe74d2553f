"""What can be found wrong before anything is started."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator

from vistok.errors import RecipeError
from vistok.training.module import STEP_KEY


def check_checkpoint(path: Path) -> None:
    """Looks into a checkpoint without loading its weights.

    Raises:
        RecipeError: there is none, it is damaged, or it is not vistok's.
    """
    if not path.is_file():
        raise RecipeError(f"there is no checkpoint {path}: runs keep theirs as <run>/checkpoints/last.ckpt")
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise RecipeError(f"checkpoint {path} cannot be read: it is damaged or no checkpoint") from error
    if not isinstance(content, dict) or STEP_KEY not in content:
        raise RecipeError(f"{path} is not a checkpoint of vistok: it counts no {STEP_KEY}")


def check_devices(trainer: pl.Trainer) -> None:
    """Refuses more processes on a CPU than it has cores, which would only wait for each other.

    Raises:
        RecipeError: naming both numbers.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise RecipeError(
            f"trainer.devices={trainer.num_devices} are more processes than the {cores} cores of this machine's CPU: "
            f"set trainer.devices to {cores} at most"
        )
