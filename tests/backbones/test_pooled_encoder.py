import pytest
import torch

from vistok.backbones import ConvEncoder, PooledEncoder

X = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make(pools):
    torch.manual_seed(0)
    return PooledEncoder(
        ConvEncoder(4, channels=8, multipliers=(1,), num_res_blocks=1, patch=4), pools
    ).eval()


def test_squares_are_averaged_and_what_does_not_fill_one_is_left_out():
    encoder = make((1, 2, 3))
    features = encoder.trunk(X)
    pooled = encoder.latents(X, pool=2).latent
    assert pooled.shape == (2, 3, 3, 4)
    torch.testing.assert_close(pooled[:, 0, 2], features[:, 0:2, 4:6].mean(dim=(1, 2)))
    assert torch.equal(encoder(X), features)


def test_the_first_side_is_the_default():
    encoder = make((2, 1))
    assert torch.equal(encoder(X), encoder.latents(X, pool=2).latent)
    assert make((2,)).factor == 8 and encoder.factor == 4


def test_sides_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        make((0, 1))
    with pytest.raises(ValueError, match="offers 1, 2"):
        make((1, 2)).latents(X, pool=3)
    with pytest.raises(ValueError, match="7 x 7 cannot be pooled by 8"):
        make((8,))(X)
