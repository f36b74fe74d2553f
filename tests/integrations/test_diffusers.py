"""A continuous tokenizer is an autoencoder of diffusers: its pipelines run on it, save it and load it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integrations.importers.published import images
from vistok import ImagePolicy, Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.errors import TokenizerError
from vistok.quantizers import FSQ, Gaussian, Identity

diffusers = pytest.importorskip("diffusers")


def tokenizer(quantizer: Any = None, factor: int = 8) -> Tokenizer:
    quantizer = quantizer or Gaussian(4)
    multipliers = [1] * factor.bit_length()
    made = Tokenizer(
        ConvEncoder(quantizer.dim_in, 8, multipliers, num_res_blocks=1),
        quantizer,
        ConvDecoder(quantizer.dim, 8, multipliers, num_res_blocks=1),
        image=ImagePolicy(size=(64, 64)),
    ).eval()
    if made.normaliser is not None:
        made.normaliser.set([0.1 * n for n in range(quantizer.dim)], 0.5)
    return made


def autoencoder(*arguments: Any) -> Any:
    from vistok.integrations.diffusers import Autoencoder

    return Autoencoder.from_tokenizer(tokenizer(*arguments))


def test_it_encodes_and_decodes_as_its_tokenizer_does():
    from vistok.integrations.diffusers import Autoencoder

    mine = tokenizer()
    theirs, x = Autoencoder.from_tokenizer(mine), images(64, 64)
    posterior = theirs.encode(x).latent_dist
    encoded = mine.encode(x)
    assert torch.allclose(posterior.mode().permute(0, 2, 3, 1).flatten(1, 2), encoded.latents, atol=1e-6)
    assert torch.allclose(theirs.decode(posterior.mode()).sample, mine.decode(encoded), atol=1e-5)
    assert torch.allclose(theirs(x).sample, mine.decode(encoded), atol=1e-5)
    assert torch.allclose(
        theirs.decode(posterior.mode(), return_dict=False)[0], mine.decode(encoded), atol=1e-5
    )
    moments = mine.moments(x).latents.chunk(2, -1)[1]
    assert torch.allclose(posterior.std.permute(0, 2, 3, 1).flatten(1, 2), moments, atol=1e-5)


def test_draws_follow_a_generator_and_latents_without_spread_never_vary():
    x = images(64, 64)
    draw = lambda part: part.encode(x).latent_dist.sample(generator=torch.Generator().manual_seed(1))  # noqa: E731
    spread, fixed = autoencoder(), autoencoder(Identity(4))
    assert torch.equal(draw(spread), draw(spread))
    assert not torch.equal(draw(spread), spread.encode(x).latent_dist.mode())
    assert torch.equal(draw(fixed), fixed.encode(x, return_dict=False)[0].mode())


def test_the_config_says_what_pipelines_ask():
    config = autoencoder().config
    assert 2 ** (len(config.block_out_channels) - 1) == 8
    assert (config.latent_channels, config.scaling_factor, config.shift_factor) == (4, 1.0, 0.0)
    assert config.force_upcast is False


def test_it_saves_and_loads_as_every_model_of_diffusers(tmp_path):
    from vistok.integrations.diffusers import Autoencoder

    made, x = autoencoder(), images(64, 64)
    made.save_pretrained(tmp_path)
    again = Autoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(x).latent_dist.mode(), made.encode(x).latent_dist.mode())
    assert again.tokenizer.spec.latents == made.tokenizer.spec.latents  # the normaliser too
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


def test_diffusers_own_pipeline_runs_on_it_saves_and_loads_again(tmp_path):
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    pipeline = DiTPipeline(transformer.eval(), autoencoder(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def generate(pipe: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        result = pipe([3, 7], num_inference_steps=2, generator=generator, output_type="pt").images
        assert isinstance(result, torch.Tensor)
        return result

    pictures = generate(pipeline)
    assert pictures.shape == (2, 3, 64, 64) and pictures.std() > 0
    assert pictures.min() >= 0 and pictures.max() <= 1
    pipeline.save_pretrained(tmp_path)
    again = DiTPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.allclose(generate(again), pictures, atol=1e-5)


def test_gradients_reach_latents_that_ask_for_them():
    latents = torch.randn(1, 4, 4, 4, requires_grad=True)
    autoencoder().decode(latents).sample.sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_half_precision_goes_in_and_comes_out():
    made = autoencoder().to(torch.bfloat16)
    posterior = made.encode(images(64, 64).bfloat16()).latent_dist
    assert made.decode(posterior.mode()).sample.dtype == posterior.mode().dtype == torch.bfloat16


def test_tokenizers_without_latents_or_pixels_are_refused():
    from vistok.integrations.diffusers import Autoencoder

    with pytest.raises(TokenizerError, match="tokenizer is discrete: diffusers' autoencoders have latents"):
        autoencoder(FSQ([4, 4, 4, 4]))
    without = Tokenizer(ConvEncoder(4, 8, [1, 1], num_res_blocks=1), Identity(4))
    with pytest.raises(TokenizerError, match="no pixel decoder"):
        Autoencoder.from_tokenizer(without)
