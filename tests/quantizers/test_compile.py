"""Eager, compiled and exported quantizers agree, and autocast around them changes nothing."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import vistok.quantizers as quantizers
from vistok.quantizers import Continuous, External, Quantizer

CONCRETE = sorted(
    (
        cls
        for cls in (getattr(quantizers, name) for name in quantizers.__all__)
        if inspect.isclass(cls)
        and issubclass(cls, Quantizer)
        and not inspect.isabstract(cls)
        # External holds another library's code, which need not compile; Continuous is a base
        and cls not in (Quantizer, Continuous, External)
    ),
    key=lambda cls: cls.__name__,
)
each = pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
BY_INDUCTOR = ("VQ", "FSQ", "LFQ", "Residual")


class Chosen(nn.Module):
    """A quantizer's quantized vectors and indices, without what export cannot return."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latent):
        output = self.quantizer(latent)
        return output.quantized, output.quantized.new_zeros(()) if output.indices is None else output.indices


def latents(quantizer, shape=(2, 3, 5)):
    return torch.randn(*shape, quantizer.dim_in, generator=torch.Generator().manual_seed(3))


def assert_equal(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(found[1], expected[1])


@each
def test_compiled_indices_equal_eager_ones(cls):
    torch._dynamo.reset()
    module = Chosen(cls.tiny().eval())
    latent = latents(module.quantizer)
    with torch.no_grad():
        assert_equal(torch.compile(module, fullgraph=True, backend="aot_eager")(latent), module(latent))


@pytest.mark.slow
@pytest.mark.parametrize("cls", [c for c in CONCRETE if c.__name__ in BY_INDUCTOR], ids=lambda c: c.__name__)
def test_inductor_gives_the_eager_indices(cls):
    torch._dynamo.reset()
    module = Chosen(cls.tiny().eval())
    latent = latents(module.quantizer)
    with torch.no_grad():
        assert_equal(torch.compile(module, fullgraph=True)(latent), module(latent))


@each
def test_exported_indices_equal_eager_ones(cls):
    module = Chosen(cls.tiny().eval())
    latent = latents(module.quantizer)
    with torch.no_grad():
        exported = torch.export.export(module, (latent,), strict=False).module()
        other = torch.randn_like(latent)
        assert_equal(exported(other), module(other))


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_indices_of_float32(cls, dtype):
    module = Chosen(cls.tiny().eval())
    latent = latents(module.quantizer)
    with torch.no_grad():
        expected = module(latent)
        with torch.autocast("cpu", dtype=dtype):
            found = module(latent)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], atol=0, rtol=0)
