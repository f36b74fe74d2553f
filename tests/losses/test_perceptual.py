import pytest
import torch

from vistok.errors import RecipeError
from vistok.losses import Perceptual


@pytest.fixture(scope="module")
def loss() -> Perceptual:
    return Perceptual("efficientnet-lite0")


def test_it_is_the_mean_of_the_distances_of_a_batch(loss):
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(loss(image, reconstruction), loss.network(image, reconstruction).mean())
    assert loss(image, image).item() == 0


def test_descending_it_brings_the_reconstruction_closer(loss):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    reconstruction = torch.zeros_like(image, requires_grad=True)
    before = loss(image, reconstruction)
    before.backward()
    step = reconstruction.grad / reconstruction.grad.norm()
    assert loss(image, (reconstruction - 0.5 * step).detach()) < before
    assert loss.network.encoder.model.conv_stem.weight.grad is None


def test_the_network_is_frozen_and_absent_from_checkpoints_and_optimizers(loss):
    loss.train()
    assert not loss.network.encoder.training
    assert not loss.state_dict()
    assert not list(loss.parameters())
    loss.load_state_dict({})


def test_without_the_downloaded_weights_the_offline_backend_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(RecipeError, match=r"vgg16-397923af\.pth.* choose efficientnet-lite0"):
        Perceptual("lpips")
