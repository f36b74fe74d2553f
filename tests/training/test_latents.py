"""Latents that a generative model sees have mean 0 and standard deviation 1."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.tokenizer.kinds import make
from tests.training.parts import make_data, make_module, make_tokenizer, make_trainer
from vistok import load
from vistok.errors import RecipeError
from vistok.losses import LossTerms
from vistok.quantizers import Gaussian
from vistok.training import SaveTokenizer
from vistok.training.saving import _latents_are_kept


def train(folder, **options):
    module = make_module(tokenizer=make_tokenizer(Gaussian(4)), ema_decay=0.5)
    export = SaveTokenizer(str(folder / "tokenizer"), **options)
    data = make_data()
    make_trainer(folder, 3, callbacks=[export]).fit(module, data)
    return load(folder / "tokenizer"), data


def test_latents_of_training_images_are_normalised_and_still_decode(tmp_path):
    tokenizer, data = train(tmp_path, latent_batches=8)
    images = torch.cat([batch["image"] for batch in itertools.islice(data.training_batches(0), 8)])
    with torch.no_grad():
        encoded = tokenizer.encode(images)
        latents = encoded.latents.flatten(0, 1)
        torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(latents.std(0), torch.ones(4), atol=1e-2, rtol=0)
        expected = tokenizer(images).image.clamp(-1, 1)
        torch.testing.assert_close(tokenizer.decode(encoded), expected, atol=1e-4, rtol=1e-4)
    assert tokenizer.spec.provenance["latent_statistics"] == {"images": 32}
    assert tokenizer.spec.latents.scale != (1.0,) * 4


def test_latents_stay_as_they_are_if_switched_off(tmp_path):
    tokenizer, _ = train(tmp_path, latent_batches=0)
    assert tokenizer.spec.latents.scale == (1.0,) * 4 and tokenizer.spec.latents.shift == (0.0,) * 4
    assert "latent_statistics" not in tokenizer.spec.provenance


def test_a_constant_channel_is_shifted_not_scaled(tmp_path):
    from vistok.training.latents import normalise_latents

    tokenizer = make_tokenizer(Gaussian(4)).eval()
    for weight in tokenizer.encoder.parameters():
        torch.nn.init.zeros_(weight)
    trainer = make_trainer(tmp_path, 1)
    assert normalise_latents(tokenizer, [{"image": torch.rand(2, 3, 8, 8)}], 1, trainer) == 2
    assert tokenizer.normaliser.scale.tolist() == [1.0] * 4


def test_fewer_than_no_batches_are_refused():
    with pytest.raises(RecipeError, match="latent_batches is -1"):
        SaveTokenizer(latent_batches=-1)


def test_normalised_latents_that_nothing_has_moved_stay_as_they_are():
    tokenizer = make_tokenizer(Gaussian(4))
    for part in (tokenizer.encoder, tokenizer.project_in):
        part.requires_grad_(False)
    assert not _latents_are_kept(tokenizer)
    tokenizer.normaliser.set(0.5, 2.0)
    assert _latents_are_kept(tokenizer)
    tokenizer.encoder.requires_grad_(True)
    assert not _latents_are_kept(tokenizer)


def test_the_latents_of_a_second_stream_are_normalised_too(tmp_path):
    tokenizer = make("mixed")
    losses = LossTerms({"l1": 1.0, **dict.fromkeys(tokenizer.loss_names, 0.0)})
    export = SaveTokenizer(str(tmp_path / "tokenizer"), latent_batches=8)
    data = make_data()
    make_trainer(tmp_path, 2, callbacks=[export]).fit(make_module(tokenizer=tokenizer, losses=losses), data)
    images = torch.cat([batch["image"] for batch in itertools.islice(data.training_batches(0), 8)])
    saved = load(tmp_path / "tokenizer")
    latents = saved.encode(images)["detail"].latents.flatten(0, 1)
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(4), atol=2e-2, rtol=0)
    assert saved.spec.provenance["latent_statistics"] == {"images": 32}
    detail = tokenizer.branches[0]
    assert not _latents_are_kept(tokenizer)
    for part in (detail.encoder, detail.project_in, detail.quantizer):
        part.requires_grad_(False)
    assert _latents_are_kept(tokenizer)
