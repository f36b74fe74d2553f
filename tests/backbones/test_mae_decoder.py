from __future__ import annotations

import pytest
import torch

from vistok.backbones import MAEDecoder
from vistok.backbones.mae_decoder import sine_positions


def test_each_vector_becomes_a_patch_and_sees_the_others() -> None:
    decoder = MAEDecoder(6, 4, 16, 2, 2)
    x = torch.randn(1, 3, 5, 6)
    image = decoder(x)
    assert image.shape == (1, 3, 12, 20)
    x[0, 0, 0] += 1
    assert ((decoder(x) - image).abs().amax((0, 1)) > 0).all()


def test_patches_lie_where_their_vectors_do() -> None:
    decoder = MAEDecoder(6, 4, 16, 0, 2)
    x = torch.randn(1, 3, 5, 6)
    image = decoder(x)
    x[0, 1, 2] += 1
    changed = (decoder(x) - image).abs().amax((0, 1)) > 0
    assert changed[4:8, 8:12].all() and changed.sum() == 16


def test_positions_are_sines_of_the_column_then_of_the_row_over_sixteen_units() -> None:
    table = sine_positions(4, 8, 8)
    assert table.shape == (4, 8, 8)
    assert torch.allclose(table[0, 1, :2], torch.tensor([2.0, 2.0 / 100]).sin(), atol=1e-6)
    assert torch.allclose(table[1, 0, 6:], torch.tensor([4.0, 4.0 / 100]).cos(), atol=1e-6)
    assert torch.allclose(table[2, :, 4:], table[2, :1, 4:].expand(8, 4))


def test_widths_that_the_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="width 18 must be a multiple of 4 and of the 2 heads"):
        MAEDecoder(6, 4, 18, 1, 2)
