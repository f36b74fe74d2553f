import pytest
import torch

from vistok.quantizers import VQ, Gaussian, MultiScale, Residual
from vistok.tokenizer import CodeNoise


@pytest.mark.parametrize("make", [lambda: VQ(16, 4), lambda: Residual(VQ(8, 4), 2)])
def test_the_stated_share_of_positions_gets_another_code(make):
    torch.manual_seed(0)
    quantizer = make()
    quantized = torch.full((8, 10, 10, 4), 9.0)
    noisy = CodeNoise(replace=0.25)(quantized, quantizer)
    replaced = (noisy != 9).all(dim=-1)
    assert replaced.float().mean() == pytest.approx(0.25, abs=0.06)
    assert ((noisy == 9).all(dim=-1) | replaced).all()


def test_dropping_takes_all_vectors_of_an_image():
    torch.manual_seed(0)
    noisy = CodeNoise(replace=0, drop=0.5)(torch.ones(200, 2, 3, 4), VQ(8, 4))
    shares = noisy.mean(dim=(1, 2, 3))
    assert set(shares.tolist()) == {0.0, 1.0} and shares.mean() == pytest.approx(0.5, abs=0.12)


def test_no_noise_changes_nothing_and_gradients_pass_where_codes_stay():
    x = torch.randn(2, 3, 3, 4, requires_grad=True)
    assert torch.equal(CodeNoise(0, 0)(x, VQ(8, 4)), x)
    CodeNoise(replace=1.0)(x, VQ(8, 4)).sum().backward()
    assert not x.grad.any()


def test_shares_and_quantizers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        CodeNoise(1.5)
    for quantizer in (Gaussian(4), MultiScale(VQ(8, 4), (1, 2))):
        with pytest.raises(ValueError, match="no single code"):
            CodeNoise(0.1).check(quantizer)
        CodeNoise(0, drop=0.1).check(quantizer)
