import pytest
import torch

from vistok.backbones import perceptual_distance as module
from vistok.backbones.perceptual_distance import FeatureDistance, LPIPSDistance, perceptual_distance
from vistok.errors import ImageError, RecipeError


@pytest.fixture(scope="module")
def lite0() -> FeatureDistance:
    return FeatureDistance("efficientnet-lite0")


@pytest.fixture
def random_alex(monkeypatch) -> LPIPSDistance:
    """The real network and the real learned heads, on a trunk of random weights."""
    import lpips

    torch.manual_seed(0)
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    monkeypatch.setattr(module, "_load_lpips", lambda *_: net)
    return LPIPSDistance("lpips-alex")


def images(seed: int, size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_have_distance_zero_and_others_more(lite0):
    a, b = images(0), images(1)
    assert lite0(a, a).tolist() == [0.0, 0.0]
    assert (lite0(a, b) > 0.01).all()
    torch.testing.assert_close(lite0(a, b), lite0(b, a))


def test_each_image_has_its_own_distance(lite0):
    a, b = images(0), images(1)
    torch.testing.assert_close(
        lite0(a, b), torch.cat([lite0(a[:1], b[:1]), lite0(a[1:], b[1:])]), rtol=1e-3, atol=1e-5
    )


def test_a_stronger_blur_is_further_away(lite0):
    from skimage.data import chelsea

    photo = torch.from_numpy(chelsea()[22:278, 100:356].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    distances = []
    for side in (128, 64, 32):
        small = torch.nn.functional.interpolate(photo, (side, side), mode="bilinear", antialias=True)
        distances.append(
            lite0(photo, torch.nn.functional.interpolate(small, (256, 256), mode="bilinear")).item()
        )
    assert 0 < distances[0] < distances[1] < distances[2] < 4


def test_five_layers_of_efficientnet_lite0_are_compared(lite0):
    assert [tuple(f.shape[1:]) for f in lite0.layers(images(0))] == [
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]


def test_gradients_reach_the_reconstruction_and_are_finite_on_flat_images(lite0):
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    lite0(images(0)[:1], flat).sum().backward()
    assert flat.grad.isfinite().all()
    assert flat.grad.abs().sum() > 0


def test_lpips_gives_what_the_lpips_package_gives(random_alex):
    a, b = images(0), images(1)
    torch.testing.assert_close(random_alex(a, b), random_alex.net(a, b).flatten(), rtol=1e-4, atol=1e-6)


def test_lpips_has_finite_gradients_where_all_channels_are_zero(random_alex):
    reconstruction = torch.zeros(1, 3, 64, 64, requires_grad=True)
    first = random_alex.net.net.slice1[0]
    torch.nn.init.constant_(first.bias, -100.0)  # the relu then kills every channel
    random_alex(images(0)[:1], reconstruction).sum().backward()
    assert reconstruction.grad.isfinite().all()


def test_images_too_small_for_lpips_are_refused(random_alex):
    with pytest.raises(ImageError, match="30 x 30 pixels are too small for lpips-alex, which needs 31"):
        random_alex(images(0, 30), images(1, 30))
    assert random_alex(images(0, 31), images(1, 31)).isfinite().all()


def test_lpips_without_its_trunk_says_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(RecipeError) as caught:
        perceptual_distance("lpips-alex")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "alexnet-owt-7be5be79.pth",
        str(tmp_path / "hub" / "checkpoints"),
        "efficientnet-lite0",
        "cannot be downloaded",
    ):
        assert part in message


def test_a_damaged_trunk_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(b"cut off")
    with pytest.raises(RecipeError, match=r"alexnet-owt-7be5be79\.pth, .* cannot be read"):
        perceptual_distance("lpips-alex")


def test_an_unknown_network_is_refused_with_the_choices():
    with pytest.raises(
        RecipeError, match=r"'vgg-lpips': .* \(others: efficientnet-lite0, lpips, lpips-alex\)"
    ):
        perceptual_distance("vgg-lpips")
