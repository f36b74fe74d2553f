import itertools

import pytest
import torch

from vistok.quantizers import FSQ, LFQ, VQ, Gaussian, Product, Residual


def test_each_stage_halves_what_is_left_and_the_sum_is_the_value():
    torch.manual_seed(0)
    quantizer = Residual(VQ(64, 4), 4).train()
    latent = torch.randn(4, 128, 4)
    quantizer.prepare(latent)
    output = quantizer.eval()(latent)
    stages = quantizer.depthwise(output.indices)
    torch.testing.assert_close(stages.sum(-2), output.quantized)
    left = [(latent - stages[..., :n, :].sum(-2)).square().mean() for n in range(5)]
    assert all(after < 0.7 * before for before, after in itertools.pairwise(left))


@pytest.mark.parametrize(
    "combine",
    [lambda vq: Residual(vq, 3), lambda vq: Residual(vq, 3, shared=True), lambda vq: Product(vq, 3)],
)
@pytest.mark.parametrize("training", [True, False])
def test_one_search_for_all_parts_gives_what_searches_one_by_one_give(combine, training):
    def made(searches: bool):
        torch.manual_seed(0)
        quantizer = combine(VQ(16, 4, update="ema", init="normal", revive_after=2)).train(training)
        if not searches:
            quantizer._found = lambda latent: None
        return quantizer

    together, apart = made(True), made(False)
    for seed in range(4):
        latent = torch.randn(2, 50, together.dim_in, generator=torch.Generator().manual_seed(seed))
        assert together._found(latent) is not None
        leaves = [latent.clone().requires_grad_() for _ in range(2)]
        outputs = [quantizer(leaf) for quantizer, leaf in zip((together, apart), leaves, strict=True)]
        assert torch.equal(outputs[0].indices, outputs[1].indices)
        for output in outputs:
            (output.quantized.square().sum() + sum(output.losses.values())).backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
        for quantizer in (together, apart):
            quantizer.update()
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value, apart.state_dict()[name])


def test_stages_that_choose_otherwise_search_one_by_one():
    latent = torch.randn(1, 3, 4)
    for quantizer in (Residual(VQ(16, 4, metric="cosine"), 2), Residual(LFQ(4), 2, stage_scale=0.5)):
        assert quantizer._found(latent) is None
    assert Residual(VQ(16, 4), 2, stage_scale=0.5)._found(latent) is None


def test_a_stage_that_somebody_changes_or_watches_is_called_itself():
    class Halved(VQ):
        def forward(self, latent):
            return super().forward(latent / 2)

    latent, own = torch.randn(1, 30, 4), Halved(16, 4, init="normal").eval()
    assert torch.equal(Product(own, 1)(latent).indices, own(latent).indices)
    watched, seen = Residual(VQ(16, 4), 2).eval(), []
    watched.stages[1].register_forward_hook(lambda *arguments: seen.append(1))
    watched(latent)
    assert seen == [1]


def test_an_empty_batch_gives_empty_indices():
    assert Residual(VQ(16, 4), 3).eval()(torch.randn(0, 2, 5, 4)).indices.shape == (0, 2, 5, 3)
    assert Product(VQ(16, 4), 3).eval()(torch.randn(0, 2, 5, 12)).indices.shape == (0, 2, 5, 3)


def test_the_gradient_passes_once_whatever_the_number_of_stages():
    for stages in (1, 3):
        latent = torch.randn(2, 5, 4, requires_grad=True)
        Residual(VQ(16, 4, init="uniform"), stages)(latent).quantized.sum().backward()
        torch.testing.assert_close(latent.grad, torch.ones_like(latent))


def test_the_commitment_of_every_stage_moves_the_encoder():
    latent = torch.randn(2, 50, 4, requires_grad=True)
    quantizer = Residual(VQ(16, 4, init="uniform"), 3)
    (gradient,) = torch.autograd.grad(quantizer(latent).losses["commitment"], latent)
    left, expected = latent.detach(), torch.zeros_like(latent)
    for stage in quantizer.stages:
        left = left - stage.decode(stage(left).indices)
        expected += 2 * left / left.numel() / 3
    torch.testing.assert_close(gradient, expected)


def test_shared_stages_hold_one_codebook():
    shared, own = Residual(VQ(16, 4), 3, shared=True), Residual(VQ(16, 4), 3)
    assert sum(p.numel() for p in own.parameters()) == 3 * sum(p.numel() for p in shared.parameters())


def test_stages_of_fsq_and_wrong_stages():
    assert Residual(FSQ((4, 3)), 2)(torch.randn(1, 3, 2)).indices.shape == (1, 3, 2)
    with pytest.raises(ValueError, match="Gaussian"):
        Residual(Gaussian(4), 2)
    with pytest.raises(ValueError, match="num_stages"):
        Residual(VQ.tiny(), 0)
    with pytest.raises(ValueError, match="3 stages"):
        Residual(VQ.tiny(), 2).decode(torch.zeros(1, 1, 3, dtype=torch.int64))


def test_dropped_stages_are_those_at_the_end_and_the_indices_are_whole():
    torch.manual_seed(0)
    quantizer = Residual(VQ(16, 4, init="uniform"), 4, stage_dropout=0.5).train()
    latent = torch.randn(64, 5, 4)
    output = quantizer(latent)
    prefixes = [quantizer.decode(output.indices[..., :n]) for n in range(1, 5)]
    kept = [
        next(
            n
            for n, p in enumerate(prefixes, 1)
            if torch.allclose(p[image], output.quantized[image], atol=1e-5)
        )
        for image in range(64)
    ]
    assert set(kept) == {1, 2, 3, 4} and 20 <= kept.count(4) <= 44
    torch.testing.assert_close(quantizer.eval()(latent).quantized, prefixes[-1])


def test_stages_of_every_kind_nest():
    for stage, dim in ((Product(VQ(16, 2), 2), 4), (LFQ(4), 4), (LFQ(70, "none", bit_labels=True), 70)):
        quantizer = Residual(stage, 3, stage_scale=0.5).eval()
        output = quantizer(torch.randn(2, 5, dim))
        assert output.indices.shape == (2, 5, 3 * stage.num_groups)
        torch.testing.assert_close(quantizer.decode(output.indices), output.quantized)
        assert quantizer.depthwise(output.indices).shape[:3] == (2, 5, 3 * stage.num_groups)


def test_scaled_sign_stages_halve_the_interval_each_time():
    latent = torch.rand(1, 200, 3) * 4 - 2
    quantizer = Residual(LFQ(3), 8, stage_scale=0.5).eval()
    assert (quantizer(latent).quantized - latent).abs().max() <= 2 ** (1 - 8) + 1e-6


def test_vector_quantize_pytorch_decodes_the_same_residual_indices():
    from vector_quantize_pytorch import ResidualVQ

    peer = ResidualVQ(dim=8, codebook_size=32, num_quantizers=3).eval()
    quantizer = Residual(VQ(32, 8, init="uniform"), 3).eval()
    for stage, codes in zip(quantizer.stages, peer.codebooks, strict=True):
        stage.codebook.data = codes.clone()
    latent = torch.randn(2, 40, 8)
    theirs, indices, _ = peer(latent)
    output = quantizer(latent)
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(quantizer.decode(indices), peer.get_output_from_indices(indices))
    torch.testing.assert_close(output.quantized, theirs, atol=1e-5, rtol=1e-4)


def test_vector_quantize_pytorch_gives_the_same_residual_bits():
    from vector_quantize_pytorch import ResidualLFQ

    peer = ResidualLFQ(dim=6, codebook_size=64, num_quantizers=3).eval()
    latent = torch.randn(2, 40, 6)
    theirs, indices, _ = peer(latent)
    output = Residual(LFQ(6), 3, stage_scale=0.5).eval()(latent)
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(output.quantized, theirs)
