import math

import pytest
import torch
from torch.nn import functional

from tests.training.parts import make_tokenizer
from vistok.errors import RecipeError, TokenizerError
from vistok.losses import CodeCrossEntropy
from vistok.quantizers import FSQ, VQ, Gaussian, Residual

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_even_logits_cost_the_logarithm_of_the_codebook():
    loss = CodeCrossEntropy(make_tokenizer(FSQ((4, 3))))
    assert loss(IMAGE, torch.zeros(2, 4, 4, 12)).item() == pytest.approx(math.log(12))


def test_the_proxys_own_codes_cost_nothing():
    proxy = make_tokenizer(FSQ((4, 3))).eval()
    codes = proxy.encode(IMAGE).indices_grid()
    certain = 100.0 * functional.one_hot(codes, 12)
    assert CodeCrossEntropy(proxy)(IMAGE, certain).item() == pytest.approx(0, abs=1e-6)
    wrong = certain.roll(1, dims=-1)
    assert CodeCrossEntropy(proxy)(IMAGE, wrong).item() == pytest.approx(100, rel=1e-6)


def test_each_stage_of_a_residual_proxy_has_logits_of_its_own():
    torch.manual_seed(0)
    proxy = make_tokenizer(Residual(stage=VQ(8, 4, init="uniform"), num_stages=3)).eval()
    certain = 100.0 * functional.one_hot(proxy.encode(IMAGE).indices, 8).flatten(2)
    loss = CodeCrossEntropy(proxy)
    assert loss(IMAGE, certain).item() == pytest.approx(
        0, abs=1e-6
    )  # a sequence (B, N, S * K) will do as well
    with pytest.raises(RecipeError, match="take 3 x 8: set the head's dim_out to 24"):
        loss(IMAGE, torch.zeros(2, 4, 4, 8))


def test_gradients_reach_the_logits_and_not_the_proxy_which_is_not_saved():
    proxy = make_tokenizer(FSQ((4, 3)))
    loss = CodeCrossEntropy(proxy)
    logits = torch.zeros(2, 4, 4, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(IMAGE, logits)
    value.backward()
    assert logits.grad.abs().sum() > 0 and value.dtype == torch.float32
    assert not loss.state_dict() and not list(loss.parameters())
    assert all(p.grad is None and not p.requires_grad for p in proxy.parameters())


def test_a_folder_names_the_proxy(tmp_path):
    proxy = make_tokenizer(FSQ((4, 3))).eval()
    proxy.save(tmp_path / "proxy")
    assert torch.equal(CodeCrossEntropy(str(tmp_path / "proxy")).codes(IMAGE), proxy.encode(IMAGE).indices)
    with pytest.raises(TokenizerError, match="nowhere"):
        CodeCrossEntropy(str(tmp_path / "nowhere"))


def test_a_continuous_proxy_and_another_grid_are_refused():
    with pytest.raises(RecipeError, match="is continuous"):
        CodeCrossEntropy(make_tokenizer(Gaussian(4)))
    with pytest.raises(RecipeError, match="4 positions but the proxy has 16"):
        CodeCrossEntropy(make_tokenizer(FSQ((4, 3))))(IMAGE, torch.zeros(2, 2, 2, 12))
