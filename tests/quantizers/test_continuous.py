import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vistok.quantizers import Gaussian, Identity


def test_kl_is_the_divergence_to_the_standard_normal_summed_over_an_image_and_averaged_over_the_batch():
    latent = torch.randn(3, 4, 5, 8)
    mean, log_variance = latent.chunk(2, dim=-1)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum() / 3
    torch.testing.assert_close(Gaussian(4)(latent).losses["kl"], expected)


def test_kl_is_zero_at_the_standard_normal_and_grows_away_from_it():
    quantizer = Gaussian(2)

    def at(mean, log_variance):
        latent = torch.tensor([[[mean, mean, log_variance, log_variance]]])
        return float(quantizer(latent).losses["kl"])

    assert at(0.0, 0.0) == 0
    assert at(1.0, 0.0) > 0 and at(0.0, 1.0) > 0 and at(0.0, -1.0) > 0


def test_samples_have_the_mean_and_the_standard_deviation_that_the_latent_says():
    mean, deviation = torch.tensor([1.5, -2.0]), torch.tensor([0.25, 3.0])
    latent = torch.cat([mean, 2 * deviation.log()]).expand(1, 200_000, 4)
    drawn = Gaussian(2).train()(latent).quantized
    torch.testing.assert_close(drawn.mean((0, 1)), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std((0, 1)), deviation, atol=0, rtol=0.02)
    torch.testing.assert_close(Gaussian(2).eval()(latent).quantized[0, 0], mean)
    drawn = Gaussian(2).eval().sample(latent)
    torch.testing.assert_close(drawn.std((0, 1)), deviation, atol=0, rtol=0.02)


def test_extreme_variances_stay_finite():
    latent = torch.tensor([[[0.0, 1e6], [0.0, -1e6]]], requires_grad=True)
    output = Gaussian(1).train()(latent)
    (output.quantized.sum() + output.losses["kl"]).backward()
    assert output.quantized.isfinite().all() and latent.grad.isfinite().all()


def test_the_noise_of_identity_is_scaled_per_image_and_absent_in_evaluation():
    latent = torch.zeros(4000, 50, 2)
    quantizer = Identity(2, noise=0.5)
    assert torch.equal(quantizer.eval()(latent).quantized, latent)
    noisy = quantizer.train()(latent).quantized
    per_image = noisy.flatten(1).std(dim=1)
    # |N(0, 0.5^2)| has the mean 0.5 * sqrt(2 / pi)
    torch.testing.assert_close(per_image.mean(), torch.tensor(0.5 * (2 / torch.pi) ** 0.5), atol=0.02, rtol=0)
    assert per_image.std() > 0.2
    assert torch.equal(Identity(2).train()(latent).quantized, latent)


@pytest.mark.parametrize("quantizer", [Gaussian(2), Identity(2), Identity(2, noise=0.1)])
def test_latents_that_are_not_finite_are_refused(quantizer):
    latent = torch.zeros(1, 3, quantizer.dim_in)
    latent[0, 1, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantizer(latent)


@pytest.mark.parametrize(("cls", "arguments"), [(Gaussian, (0,)), (Identity, (0,)), (Identity, (2, -1.0))])
def test_wrong_arguments_are_refused(cls, arguments):
    with pytest.raises(ValueError, match="at least"):
        cls(*arguments)
