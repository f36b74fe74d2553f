import numpy as np
import pytest
import torch

from vistok.evaluation import psnr, round_to_uint8, ssim


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two real photographs (2, 3, 96, 128) in [-1, 1] and noisy versions of them, all on 8 bits."""
    from skimage.data import astronaut, coffee

    photos = np.stack([astronaut()[:96, 150:278], coffee()[100:196, 200:328]]).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, [[[[8]]], [[[30]]]], photos.shape)
    noisy = np.clip(np.round(photos + noise), 0, 255).astype(np.float32)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (photos, noisy))
    return a, b


def unit(image: torch.Tensor) -> np.ndarray:
    return ((image.double() + 1) / 2).permute(1, 2, 0).numpy()


def test_psnr_has_its_closed_form():
    # one of 255 levels everywhere: 20 log10(255)
    reference = torch.zeros(1, 3, 16, 16)
    assert psnr(reference, reference + 2 / 255).item() == pytest.approx(48.1308, abs=1e-4)
    assert psnr(reference, reference).item() == float("inf")


def test_psnr_agrees_with_skimage(pair):
    from skimage.metrics import peak_signal_noise_ratio

    expected = [peak_signal_noise_ratio(unit(a), unit(b), data_range=1.0) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(psnr(*pair).numpy(), expected, rtol=1e-6)


def test_ssim_agrees_with_skimage(pair):
    from skimage.metrics import structural_similarity

    expected = [
        structural_similarity(
            unit(a),
            unit(b),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(ssim(*pair).numpy(), expected, atol=1e-6)


def test_ssim_agrees_with_torchmetrics(pair):
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = ((x.double() + 1) / 2 for x in pair)
    # torchmetrics averages over a reflected border of 5 pixels too; the definition has only whole windows
    _, full = structural_similarity_index_measure(
        a, b, data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ssim(*pair), full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-6, rtol=0)


def test_ssim_is_not_inflated_by_a_data_range_of_two(pair):
    from skimage.metrics import structural_similarity

    a, b = pair[0][1], pair[1][1]
    inflated = structural_similarity(
        unit(a),
        unit(b),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=2.0,
        channel_axis=-1,
    )
    assert ssim(a[None], b[None]).item() < inflated - 0.02


def test_ssim_of_equal_images_is_one(pair):
    torch.testing.assert_close(ssim(pair[0], pair[0]), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_an_images_value_does_not_depend_on_its_batch(metric, pair):
    torch.testing.assert_close(
        metric(*pair), torch.cat([metric(a[None], b[None]) for a, b in zip(*pair, strict=True)])
    )


def test_rounding_gives_the_levels_that_a_file_would_hold():
    image = torch.tensor([-1.5, -1.0, 0.0, 0.001, 0.01, 1.0, 2.0]).view(1, 1, 1, 7)
    levels = (round_to_uint8(image) + 1) * 127.5
    torch.testing.assert_close(
        levels.flatten(), torch.tensor([0.0, 0.0, 128.0, 128.0, 129.0, 255.0, 255.0]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(round_to_uint8(round_to_uint8(image)), round_to_uint8(image))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="10 x 32 pixels are smaller"):
        ssim(torch.zeros(1, 3, 10, 32), torch.zeros(1, 3, 10, 32))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="alike"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
