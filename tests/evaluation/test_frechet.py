import pytest
import torch
from torch import Tensor, nn

from vistok.evaluation import FeatureStatistics, frechet_distance, kernel_distance


def statistics(features: Tensor, batch: int = 64) -> FeatureStatistics:
    result = FeatureStatistics(features.shape[1])
    for part in features.split(batch):
        result.update(part)
    return result


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(300, 12), torch.randn(260, 12) @ torch.randn(12, 12) * 0.5 + 0.3


def test_statistics_are_those_of_the_whole_set(sets):
    result = statistics(sets[0], batch=7)
    torch.testing.assert_close(result.mean, sets[0].double().mean(0))
    torch.testing.assert_close(result.covariance, sets[0].double().T.cov())


def test_frechet_has_its_closed_form_in_one_dimension():
    torch.manual_seed(0)
    a = torch.randn(1000, 1).double()
    a = (a - a.mean()) / a.std()
    # |difference of means|^2 + (difference of deviations)^2
    assert frechet_distance(statistics(a), statistics(3 * a + 2)) == pytest.approx(2**2 + 2**2)


def test_frechet_of_a_set_with_itself_is_zero(sets):
    assert frechet_distance(statistics(sets[0]), statistics(sets[0])) == pytest.approx(0, abs=1e-9)


def test_frechet_agrees_with_torchmetrics(sets):
    from torchmetrics.image.fid import _compute_fid

    a, b = statistics(sets[0]), statistics(sets[1])
    expected = _compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_both_distances_agree_with_torchmetrics_on_images():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Means(nn.Module):
        num_features = 12

        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(image.float(), 2).flatten(1)

    torch.manual_seed(0)
    real, fake = torch.rand(60, 3, 8, 8), torch.rand(60, 3, 8, 8) * 0.8
    fid = FrechetInceptionDistance(feature=Means(), normalize=True, input_img_size=(3, 8, 8))
    kid = KernelInceptionDistance(feature=Means(), normalize=True, subsets=1, subset_size=60)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    a, b = Means()(real), Means()(fake)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(fid.compute().item(), rel=1e-3)
    assert kernel_distance(a, b) == pytest.approx(kid.compute()[0].item(), rel=1e-4)


def test_a_singular_covariance_gives_a_finite_distance():
    torch.manual_seed(0)
    a, b = torch.randn(5, 40), torch.randn(5, 40)
    assert 0 < frechet_distance(statistics(a), statistics(b)) < 1000


def test_kernel_distance_has_its_closed_form():
    # one dimension, kernel (xy + 1)^3: k(0, 0) = 1 within a, k(1, 1) = 8 within b, k(0, 1) = 1 across
    assert kernel_distance(torch.zeros(2, 1), torch.ones(3, 1)) == pytest.approx(1 + 8 - 2)


@pytest.mark.parametrize("block", [32, 1000])
def test_kernel_distance_does_not_depend_on_the_block(sets, block):
    assert kernel_distance(*sets, block=block) == pytest.approx(kernel_distance(*sets))


def test_kernel_distance_of_one_distribution_scatters_around_zero():
    torch.manual_seed(0)
    values = [kernel_distance(torch.randn(30, 8), torch.randn(30, 8)) for _ in range(40)]
    assert min(values) < 0 < max(values)


def test_single_samples_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(statistics(torch.zeros(1, 3)), statistics(torch.zeros(5, 3)))
