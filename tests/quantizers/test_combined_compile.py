"""Eager, compiled and exported give equal indices, through every combinator."""

import pytest
import torch

from vistok.quantizers import (
    BSQ,
    FSQ,
    LFQ,
    VQ,
    Conditional,
    GroupedBits,
    MultiScale,
    Product,
    Residual,
    SharedIndex,
)

CASES = {
    "lfq": (lambda: LFQ(6), (2, 9, 6)),
    "bsq_labels": (lambda: BSQ(6, bit_labels=True), (2, 9, 6)),
    "grouped_bits": (lambda: GroupedBits(2, 3), (2, 9, 6)),
    "product": (lambda: Product(VQ(16, 3), 2), (2, 9, 6)),
    "residual": (lambda: Residual(FSQ((4, 3)), 2, stage_scale=0.5), (2, 9, 2)),
    "multi_scale": (lambda: MultiScale(VQ(16, 4), (1, 2, 4)), (2, 4, 4, 4)),
    "shared_index": (lambda: SharedIndex([VQ(16, 3), VQ(16, 2)]), (2, 9, 5)),
    "conditional": (lambda: Conditional(VQ(16, 3), 3, 2), (2, 9, 5)),
}


class Indices(torch.nn.Module):
    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latent):
        return self.quantizer(latent).indices


@pytest.mark.parametrize("name", CASES)
def test_eager_compiled_and_exported_give_equal_indices(name):
    torch.manual_seed(0)
    make, shape = CASES[name]
    model = Indices(make()).eval()
    latent = torch.randn(shape)
    with torch.no_grad():
        expected = model(latent)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(latent), expected)
        assert torch.equal(torch.export.export(model, (latent,)).module()(latent), expected)
