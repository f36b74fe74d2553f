"""Which images a tokenizer takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vistok.backbones.base import Decoder
from vistok.errors import ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.preprocess import check_pixels

if TYPE_CHECKING:
    from vistok.tokenizer.tokenizer import Tokenizer


def policy_of(decoder: Decoder | None, given: ImagePolicy | None) -> ImagePolicy:
    """The image policy, of the decoder's size where that gives one size alone.

    Raises:
        ValueError: the policy wants another size.
    """
    policy = given if given is not None else ImagePolicy()
    size = None if decoder is None else decoder.image_size
    if size is None or policy.size == size:
        return policy
    if policy.size is not None:
        raise ValueError(
            f"the image policy wants {policy.size[0]} x {policy.size[1]} pixels, the decoder gives {size[0]} x {size[1]}"
        )
    return replace(policy, size=size)


def check_images(tokenizer: Tokenizer, x: Tensor) -> None:
    """Refuses what a tokenizer cannot encode.

    Raises:
        ImageError: not a tensor, or one of another shape, type, range or size.
    """
    if not isinstance(x, Tensor):
        raise ImageError(f"encode takes a tensor (B, 3, H, W), not {type(x).__name__}: use preprocess first")
    if not torch.compiler.is_compiling():
        check_pixels(x, tokenizer.multiple_of, f"the input of {tokenizer.name}")
    check_size(tokenizer, x)


def check_size(tokenizer: Tokenizer, x: Tensor) -> None:
    """Refuses images (B, 3, H, W) of another size, where a tokenizer is for one alone.

    Raises:
        ImageError: the decoder gives another size alone; or a sequence, whose length does not tell the size, of images
            that do not have the size of the image policy.
    """
    size = None if tokenizer.decoder is None else tokenizer.decoder.image_size
    takes = "decodes to"
    if size is None and tokenizer.encoder.topology != "2d":
        size, takes = tokenizer.image_policy.size, "makes sequences of images of"
    if size is not None and (x.shape[-2], x.shape[-1]) != tuple(size):
        raise ImageError(
            f"the input of {tokenizer.name} is {x.shape[-2]} x {x.shape[-1]}: it {takes} {size[0]} x {size[1]} alone; "
            "resize it, or let preprocess do so"
        )
