import pytest
import torch

from vistok.evaluation.distribution import DistributionDistance, tiles


def test_tiles_lie_side_by_side_from_the_top_left():
    image = torch.arange(5 * 7).float().view(1, 1, 5, 7)
    cut = tiles(image, side=2)
    assert cut.shape == (6, 1, 2, 2)
    assert cut[0].flatten().tolist() == [0, 1, 7, 8]
    assert cut[1].flatten().tolist() == [2, 3, 9, 10]
    assert cut[3].flatten().tolist() == [14, 15, 21, 22]


def test_images_smaller_than_a_tile_give_none():
    assert tiles(torch.zeros(2, 3, 63, 200)).shape == (0, 3, 64, 64)


def test_distances_of_a_photograph_grow_with_the_noise():
    from skimage.data import astronaut

    photo = torch.from_numpy(astronaut()[:256, :256].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for strength in (0.0, 0.1, 0.5):
        distance = DistributionDistance()
        distance.update(photo, (photo + strength * noise).clamp(-1, 1))
        assert (distance.num_samples, distance.dim, distance.frechet_is_reliable) == (16, 1280, False)
        found.append((distance.frechet(), distance.kernel()))
    assert found[0][0] == pytest.approx(0, abs=1e-6)
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] < found[1][1] < found[2][1]
