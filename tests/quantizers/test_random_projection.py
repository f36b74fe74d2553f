import pytest
import torch

from vistok.quantizers import RandomProjection


def test_nothing_learns_and_all_of_it_is_saved():
    quantizer = RandomProjection(32, 12, 4)
    assert not list(quantizer.parameters())
    assert set(quantizer.state_dict()) == {"projection", "codebook"}


def test_it_and_vector_quantize_pytorch_choose_alike():
    from vector_quantize_pytorch import RandomProjectionQuantizer

    torch.manual_seed(0)
    peer = RandomProjectionQuantizer(dim=12, codebook_size=64, codebook_dim=4).eval()
    quantizer = RandomProjection(64, 12, 4).eval()
    quantizer.projection.copy_(peer.rand_projs[0].T)
    quantizer.codebook.copy_(peer.vq.codebook.reshape(64, 4))
    latent = torch.randn(2, 100, 12)
    assert torch.equal(quantizer(latent).indices, peer(latent).reshape(2, 100))


def test_scale_and_offset_of_a_latent_do_not_matter():
    quantizer = RandomProjection(64, 12, 4).eval()
    latent = torch.randn(1, 50, 12)
    assert torch.equal(quantizer(latent).indices, quantizer(5 * latent + 3).indices)
    torch.testing.assert_close(quantizer(latent).quantized.norm(dim=-1), torch.ones(1, 50))


def test_sizes_below_1_are_refused():
    with pytest.raises(ValueError, match="dim_in"):
        RandomProjection(4, 0, 2)
