import pytest
import torch

from vistok.quantizers import LatentQuantization


def test_each_channel_takes_its_nearest_number_also_when_they_have_lost_their_order():
    quantizer = LatentQuantization((4, 3)).eval()
    quantizer.values[0].data = torch.tensor([0.9, -1.0, 0.1, 0.4])
    latent = torch.randn(2, 200, 2)
    output = quantizer(latent)
    for channel, values in enumerate(quantizer.values):
        nearest = (latent[..., channel, None] - values).abs().argmin(dim=-1)
        assert torch.equal(output.indices // (1, 4)[channel] % (4, 3)[channel], nearest)
        torch.testing.assert_close(output.quantized[..., channel], values.detach()[nearest])


def test_losses_are_the_closed_form_and_move_their_own_side_only():
    quantizer = LatentQuantization((5, 4)).train()
    latent = torch.randn(1, 30, 2, requires_grad=True)
    output = quantizer(latent)
    expected = (latent - output.quantized.detach()).square().mean()
    torch.testing.assert_close(output.losses["commitment"], expected)
    torch.testing.assert_close(output.losses["codebook"], expected)
    output.losses["codebook"].backward(retain_graph=True)
    assert latent.grad is None and all(v.grad.abs().sum() > 0 for v in quantizer.values)


def test_it_and_vector_quantize_pytorch_give_equal_vectors():
    from vector_quantize_pytorch import LatentQuantize

    levels = [5, 4, 8]
    peer = LatentQuantize(levels=levels, dim=3).eval()
    latent = torch.rand(1, 100, 3) * 1.2 - 0.6
    output = LatentQuantization(levels).eval()(latent)
    torch.testing.assert_close(output.quantized, peer(latent.transpose(1, 2))[0].transpose(1, 2))


def test_indices_are_exact_far_beyond_what_float32_counts():
    quantizer = LatentQuantization([8] * 20).eval()
    indices = torch.tensor([[8**20 - 1, 8**20 - 2, 123_456_789_012_345_678]])
    assert torch.equal(quantizer(quantizer.decode(indices)).indices, indices)


def test_wrong_levels_are_refused():
    for levels in ((), (1, 4), [16] * 16):
        with pytest.raises(ValueError, match="levels"):
            LatentQuantization(levels)
