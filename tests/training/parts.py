"""The smallest parts that train: made anew for each test, and in processes that a test starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vistok import Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.data import PositionSampler, Procedural, RandomCrops
from vistok.losses import Adversarial, LossTerms, PatchDiscriminator
from vistok.quantizers import VQ, Quantizer
from vistok.training import OptimizerSettings, TokenizerModule
from vistok.training.data import ImageData, Stream, collate
from vistok.training.quiet import quiet

SIDE = 16


def make_tokenizer(quantizer: Quantizer | None = None) -> Tokenizer:
    """Factor 2, 16 codes of dim 4 unless another quantizer is given; the same weights each time."""
    torch.manual_seed(0)
    quantizer = quantizer if quantizer is not None else VQ(16, 4, revive_after=2)
    return Tokenizer(
        ConvEncoder(quantizer.dim_in, channels=8, multipliers=(1, 1), num_res_blocks=1),
        quantizer,
        ConvDecoder(quantizer.dim, channels=8, multipliers=(1, 1), num_res_blocks=1),
    )


def make_adversarial(start: int = 0, **options: Any) -> Adversarial:
    """A discriminator of two small layers."""
    torch.manual_seed(1)
    return Adversarial(PatchDiscriminator(channels=4, num_layers=1), start=start, **options)


def make_module(gan: bool = False, **options: Any) -> TokenizerModule:
    """A module around ``make_tokenizer``; options are those of ``TokenizerModule``."""
    options.setdefault("tokenizer", make_tokenizer())
    names = options["tokenizer"].quantizer.loss_names
    options.setdefault("losses", LossTerms({"l1": 1.0, **dict.fromkeys(names, 0.25)}))
    options.setdefault("optimizer", OptimizerSettings(lr=1e-3))
    if gan:
        options.setdefault("adversarial", make_adversarial())
    return TokenizerModule(**options)


def make_data(**options: Any) -> ImageData:
    """Procedural images, read in this process."""
    given = {"train": "procedural:5:24", "val": None, "size": SIDE, "batch_size": 4, "workers": 0}
    return ImageData(**{**given, **options})


def make_trainer(folder: Path, steps: int, **options: Any) -> pl.Trainer:
    """A silent Trainer on the CPU that writes into a folder."""
    quiet()
    given: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": "callbacks" in options,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "default_root_dir": str(folder),
        "max_steps": steps,
    }
    return pl.Trainer(**{**given, **options})


def crops_loader(batch_size: int, start: int = 0) -> DataLoader[Any]:
    """The same crops as ``make_data`` trains on, without the data module."""
    crops = RandomCrops(Procedural(5, 24, seed=0), SIDE, scale=(0.5, 1.0))
    return DataLoader(
        Stream(crops, PositionSampler(batch_size, start=start)), batch_size=None, collate_fn=collate
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a module saves."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names whose values are not equal to the last bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
