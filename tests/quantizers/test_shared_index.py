import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import VQ, Residual, SharedIndex


def test_the_index_is_the_argmin_of_the_weighted_sum_of_distances():
    torch.manual_seed(0)
    parts = [VQ(64, 6, metric="cosine", init="uniform"), VQ(64, 3, init="uniform")]
    quantizer = SharedIndex(parts, (1.0, 0.3)).eval()
    parts[1].codebook.data = torch.randn(64, 3)
    latent = torch.randn(2, 100, 9)
    semantic, pixel = latent.split([6, 3], dim=-1)
    semantic = F.normalize(semantic, dim=-1).reshape(-1, 6).double()
    codes = F.normalize(parts[0].codebook, dim=-1).double()
    distance = torch.cdist(semantic, codes).square()
    distance += 0.3 * torch.cdist(pixel.reshape(-1, 3).double(), parts[1].codebook.double()).square()
    output = quantizer(latent)
    assert torch.equal(output.indices.flatten(), distance.argmin(1))
    expected = torch.cat([part.decode(output.indices) for part in parts], -1)
    torch.testing.assert_close(output.quantized, expected)


def test_a_heavier_weight_makes_its_part_decide():
    torch.manual_seed(0)
    parts = [VQ(32, 4, init="uniform"), VQ(32, 4, init="uniform")]
    for part in parts:
        part.codebook.data = torch.randn(32, 4)
    latent = torch.randn(1, 200, 8)
    alone = parts[0](latent[..., :4]).indices
    heavy = SharedIndex(parts, (1e4, 1.0)).eval()(latent).indices
    light = SharedIndex(parts, (1e-4, 1.0)).eval()(latent).indices
    assert torch.equal(heavy, alone) and torch.equal(light, parts[1](latent[..., 4:]).indices)


def test_losses_are_means_over_parts_and_move_their_own_side():
    quantizer = SharedIndex([VQ(16, 4, init="uniform"), VQ(16, 2, init="uniform")]).train()
    latent = torch.randn(1, 50, 6, requires_grad=True)
    output = quantizer(latent)
    distance = (latent - quantizer.decode(output.indices)).square()
    expected = (distance[..., :4].mean() + distance[..., 4:].mean()) / 2
    torch.testing.assert_close(output.losses["commitment"], expected)
    torch.testing.assert_close(output.losses["codebook"], expected)
    output.losses["codebook"].backward()
    assert latent.grad is None
    assert all(part.codebook.grad.abs().sum() > 0 for part in quantizer.parts)


def test_kmeans_starts_all_codebooks_from_the_same_latents():
    latent = torch.randn(4, 64, 8)
    quantizer = SharedIndex([VQ(32, 4), VQ(32, 4)], (1.0, 4.0)).train()
    quantizer.prepare(latent)
    assert quantizer(latent).indices.unique().numel() == 32
    before = [part.codebook.clone() for part in quantizer.parts]
    quantizer.prepare(latent + 5)
    assert all(torch.equal(a, part.codebook) for a, part in zip(before, quantizer.parts, strict=True))


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([VQ(16, 4)], None, "at least two"),
        ([VQ(16, 4), VQ(8, 4)], None, "one size"),
        ([VQ(16, 4), VQ(16, 4)], (1.0,), "weights"),
        ([VQ(16, 4), VQ(16, 4)], (1.0, 0.0), "weights"),
        ([VQ(16, 4), VQ(16, 4, update="ema")], None, "statistics"),
        ([VQ(16, 4), VQ(16, 4, revive_after=3)], None, "statistics"),
        ([Residual(VQ(16, 4), 2), VQ(16, 4)], None, "VQ"),
    ],
)
def test_wrong_parts_are_refused(parts, weights, message):
    with pytest.raises(ValueError, match=message):
        SharedIndex(parts, weights)
