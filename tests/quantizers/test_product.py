import pytest
import torch

from vistok.quantizers import FSQ, LFQ, VQ, Gaussian, Product, Residual


def test_each_group_of_channels_is_quantized_by_its_own_part():
    latent = torch.randn(2, 9, 12)
    product = Product(VQ(16, 4, init="uniform"), 3).eval()
    output = product(latent)
    for number, (part, piece) in enumerate(zip(product.parts, latent.chunk(3, dim=-1), strict=True)):
        alone = part(piece)
        assert torch.equal(output.indices[..., number], alone.indices)
        torch.testing.assert_close(output.quantized.chunk(3, dim=-1)[number], alone.quantized)
    torch.testing.assert_close(product.depthwise(output.indices).flatten(-2), output.quantized)


def test_losses_are_means_over_groups():
    product = Product(VQ(16, 4, init="uniform"), 3).train()
    latent = torch.randn(2, 9, 12)
    alone = [part(piece).losses for part, piece in zip(product.parts, latent.chunk(3, -1), strict=True)]
    for name, value in product(latent).losses.items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in alone]).mean())


def test_shared_groups_hold_one_codebook_and_own_ones_start_apart():
    shared, own = Product(VQ(16, 4), 3, shared=True), Product(VQ(16, 4), 3)
    assert sum(p.numel() for p in own.parameters()) == 3 * sum(p.numel() for p in shared.parameters())
    assert not torch.equal(own.parts[0].codebook, own.parts[1].codebook)
    latent = torch.randn(2, 50, 12)
    for product in (shared, own):
        product.train().prepare(latent)
        product(latent)
        product.update()
        assert product.eval()(latent).indices.shape == (2, 50, 3)


def test_combinators_nest_without_sharing_what_is_not_shared():
    product = Product(Residual(VQ(16, 4), 2), 3).eval()
    codebooks = {id(module) for module in product.modules() if isinstance(module, VQ)}
    assert len(codebooks) == 6
    latent = torch.randn(2, 5, 12)
    output = product(latent)
    assert output.indices.shape == (2, 5, 6)
    torch.testing.assert_close(product.decode(output.indices), output.quantized)
    assert product.depthwise(output.indices).shape == (2, 5, 6, 4)


def test_products_of_bits_and_levels_count_as_one_long_index():
    latent = torch.randn(2, 50, 8)
    parts = Product(LFQ(4), 2).eval()(latent).indices
    assert torch.equal(parts[..., 0] * 16 + parts[..., 1], LFQ(8).eval()(latent).indices)
    assert Product(FSQ((4, 3)), 1).eval()(torch.randn(1, 5, 2)).indices.shape == (1, 5)


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="Gaussian"):
        Product(Gaussian(4), 2)
    with pytest.raises(ValueError, match="num_groups"):
        Product(VQ.tiny(), 0)
    with pytest.raises(ValueError, match="3 groups"):
        Product(VQ.tiny(), 2).decode(torch.zeros(1, 1, 3, dtype=torch.int64))
