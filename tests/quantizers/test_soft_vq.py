import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import SoftVQ


def dense(latent, codes, temperature):
    weights = (F.normalize(latent, dim=-1) @ F.normalize(codes, dim=-1).T / temperature).softmax(dim=-1)
    return weights @ F.normalize(codes, dim=-1), weights


def test_values_and_gradients_are_those_of_the_dense_softmax():
    torch.manual_seed(0)
    quantizer = SoftVQ(40, 6, entropy_temperature=0).train()
    latent, weight = torch.randn(2, 15, 6, requires_grad=True), torch.randn(2, 15, 6)
    output = quantizer(latent)
    expected, weights = dense(latent, quantizer.codebook[0], 0.07)
    torch.testing.assert_close(output.quantized, expected)
    assert torch.equal(quantizer.likeliest(latent), weights.argmax(dim=-1))
    for mine, other in zip(
        torch.autograd.grad((output.quantized * weight).sum(), (latent, quantizer.codebook)),
        torch.autograd.grad((expected * weight).sum(), (latent, quantizer.codebook)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_tokens", [12, 7, 1])
def test_each_segment_of_the_sequence_has_a_codebook_of_its_own(num_tokens):
    torch.manual_seed(0)
    quantizer = SoftVQ(10, 4, num_codebooks=3, entropy_temperature=0).eval()
    latent = torch.randn(2, num_tokens, 4)
    output = quantizer(latent).quantized
    for token in range(num_tokens):
        codes = quantizer.codebook[token * 3 // num_tokens]
        torch.testing.assert_close(output[:, token], dense(latent[:, token], codes, 0.07)[0])


def test_the_entropies_are_means_over_codebooks_at_a_temperature_of_their_own():
    quantizer = SoftVQ(10, 4, num_codebooks=2, entropy_temperature=0.2).train()
    latent = torch.randn(3, 8, 4)
    losses = quantizer(latent).losses
    sample, batch = [], []
    for part, codes in zip(latent.chunk(2, dim=1), quantizer.codebook, strict=True):
        weights = dense(part.flatten(0, 1), codes, 0.2)[1]
        sample.append(torch.special.entr(weights).sum(dim=-1).mean())
        batch.append(-torch.special.entr(weights.mean(dim=0)).sum())
    torch.testing.assert_close(losses["sample_entropy"], torch.stack(sample).mean())
    torch.testing.assert_close(losses["batch_entropy"], torch.stack(batch).mean())
    assert quantizer.eval()(latent).losses == {}


def test_a_cold_softmax_is_the_nearest_code():
    quantizer = SoftVQ(20, 4, temperature=1e-4, entropy_temperature=0).eval()
    latent = torch.randn(1, 30, 4)
    codes = F.normalize(quantizer.codebook[0], dim=-1)[quantizer.likeliest(latent)]
    torch.testing.assert_close(quantizer(latent).quantized, codes, atol=1e-3, rtol=0)


def test_wrong_arguments_are_named():
    for name, value in (("temperature", 0.0), ("entropy_temperature", -1.0), ("num_codebooks", 0)):
        with pytest.raises(ValueError, match=name):
            SoftVQ(**{"num_codes": 4, "dim": 2, name: value})
