"""How weights move: AdamW, its learning rate at each step, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vistok.errors import RecipeError


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a linear warm-up, then a constant rate or a cosine decay.

    Args:
        lr: Peak learning rate, above 0.
        betas: Decay of the moving averages of the gradient and of its square.
        weight_decay: Decoupled; applied to matrices and convolutions, not to biases, norms and codebooks.
        warmup_steps: Steps over which the rate rises linearly from lr / warmup_steps.
        cosine_steps: Step at which the rate, falling as half a cosine after the warm-up, reaches ``min_lr``; None
            keeps the rate constant.
        min_lr: Rate at the end of the cosine and after it.
        clip: Largest norm of all gradients together; 0 does not clip.

    Raises:
        RecipeError: a value out of its range, or a cosine that ends inside the warm-up.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine_steps: int | None = None
    min_lr: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}: give a finite number above 0")
        if not 0 <= self.min_lr <= self.lr:
            raise RecipeError(f"min_lr is {self.min_lr}: it must lie in [0, lr], and lr is {self.lr}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas are {tuple(self.betas)}: give two numbers in [0, 1)")
        for name in ("weight_decay", "clip", "warmup_steps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RecipeError(f"{name} is {value}: give a finite number of at least 0")
        if self.cosine_steps is not None and self.cosine_steps <= self.warmup_steps:
            raise RecipeError(
                f"cosine_steps={self.cosine_steps} ends inside the warm-up of {self.warmup_steps} steps: raise it"
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of the optimizer step numbered ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.cosine_steps is None:
            return self.lr
        progress = min(1.0, (step - self.warmup_steps) / (self.cosine_steps - self.warmup_steps))
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def build(self, module: nn.Module, *others: nn.Module) -> torch.optim.AdamW:
        """The optimizer of all weights of modules that are not frozen.

        Raises:
            RecipeError: all of them are frozen.
        """
        decayed: list[nn.Parameter] = []
        kept: list[nn.Parameter] = []
        for name, weight in (named for part in (module, *others) for named in part.named_parameters()):
            if weight.requires_grad:
                (kept if weight.ndim < 2 or name.endswith("codebook") else decayed).append(weight)
        if not decayed and not kept:
            raise RecipeError(f"{type(module).__name__} has no weights to train: unfreeze a part of it")
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr, betas=self.betas)

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Gives the optimizer the rate of that step, and returns it."""
        rate = self.lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def clip_gradients(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Scales the gradients down to norm ``clip`` where they exceed it; returns the norm before, a scalar."""
        weights = [
            weight
            for group in optimizer.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        if self.clip:
            return nn.utils.clip_grad_norm_(weights, self.clip)
        return total_norm(weights)


def total_norm(weights: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, a scalar; 0 where there are none."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
