"""A tokenizer made ready to encode fast: weights in another type, the encoder compiled."""

from __future__ import annotations

import copy
import warnings
from typing import Literal, get_args

import torch
from torch import nn

from vistok.errors import ShardError
from vistok.quantizers import Quantizer
from vistok.shards.fingerprint import tokenizer_dtype
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.normaliser import LatentNormaliser

Precision = Literal["float32", "bfloat16", "float16"]

# these always compute in float32: a code that is near by 8 bits is not the nearest
_KEPT = (Quantizer, LatentNormaliser)


def in_precision(tokenizer: Tokenizer, precision: Precision | None) -> Tokenizer:
    """A tokenizer whose encoder has weights of a type, channels last; itself where they have that type already.

    Weights are cast once, which unlike autocast costs nothing in each layer. The quantizer and the normaliser of latents
    stay as they are.

    Args:
        tokenizer: Is not changed.
        precision: ``float32``, ``bfloat16`` or ``float16``; None for the type that it has.

    Raises:
        ShardError: another type.
    """
    if precision is None:
        return tokenizer
    if precision not in get_args(Precision):
        raise ShardError(f"precision must be one of {', '.join(get_args(Precision))}, it is {precision!r}")
    dtype: torch.dtype = getattr(torch, precision)
    if tokenizer_dtype(tokenizer) == dtype:
        return tokenizer
    # what only decodes is shared, not copied
    unused = (tokenizer.decoder, tokenizer.project_out, tokenizer.feature_head)
    cast = copy.deepcopy(tokenizer, {id(part): part for part in unused if part is not None})
    _cast(cast, dtype, {id(part) for part in unused if part is not None})
    return cast


def _cast(module: nn.Module, dtype: torch.dtype, kept: set[int]) -> None:
    for child in module.children():
        if not isinstance(child, _KEPT) and id(child) not in kept:
            _cast(child, dtype, kept)
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point():
            parameter.data = _channels_last(parameter.data.to(dtype))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def _channels_last(weight: torch.Tensor) -> torch.Tensor:
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def compiled(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with its encoder compiled by ``torch.compile``; itself, with a warning, where that is not possible.

    What is compiled is tried out on the first batch: only then does it show whether there is a compiler.
    """
    plain = tokenizer.encoder
    ready = copy.copy(tokenizer)
    ready._modules = dict(tokenizer._modules)
    ready.encoder = copy.copy(plain)
    call = torch.compile(plain, dynamic=False, options={"freezing": plain.training is False})

    def forward(image: torch.Tensor) -> torch.Tensor:
        nonlocal call
        try:
            result: torch.Tensor = call(image)
        except Exception as error:  # of whatever kind: the compiler's own, the C++ compiler's, the system's
            if call is plain:
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"--compile has no effect, the encoder cannot be compiled here: {said}", stacklevel=2
            )
            call = plain
            result = plain(image)
        return result

    ready.encoder.forward = forward  # type: ignore[method-assign]
    return ready
