import pytest
import torch

from vistok.backbones import ConvEncoder, JoinedEncoder, Linear, QueryEncoder


def conv(dim, patch):
    torch.manual_seed(dim)
    return ConvEncoder(dim, channels=8, multipliers=(1,), num_res_blocks=1, patch=patch).eval()


X = torch.rand(2, 3, 24, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_channels_lie_side_by_side_in_order():
    one, two = conv(4, 8), conv(6, 8)
    joined = JoinedEncoder([one, two])(X)
    assert torch.equal(joined, torch.cat([one(X), two(X)], dim=-1))


def test_sums_need_equal_channels_which_projections_give():
    one, two = conv(4, 8), conv(6, 8)
    with pytest.raises(ValueError, match="4, 6 channels cannot be summed"):
        JoinedEncoder([one, two], joining="sum")
    to_four = Linear(6, 4)
    joined = JoinedEncoder([one, two], [torch.nn.Identity(), to_four], joining="sum")
    torch.testing.assert_close(joined(X), one(X) + to_four(two(X)))


def test_other_grids_are_resized_to_that_of_the_first():
    joined = JoinedEncoder([conv(4, 8), conv(6, 12)])
    assert joined(X).shape == (2, 3, 6, 10)
    assert (joined.factor, joined.multiple_of, joined.dim) == (8, 24, 10)


def test_what_gives_no_grid_cannot_be_joined():
    queries = QueryEncoder(conv(4, 8), 4, width=8, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="no plain grid"):
        JoinedEncoder([conv(4, 8), queries])
    with pytest.raises(ValueError, match="at least two"):
        JoinedEncoder([conv(4, 8)])
    with pytest.raises(ValueError, match="1 projections were given for 2"):
        JoinedEncoder([conv(4, 8), conv(4, 8)], [Linear(4, 4)])
