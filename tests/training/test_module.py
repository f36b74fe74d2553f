"""The training step: what it counts, what it moves, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tests.training.parts import (
    crops_loader,
    differing,
    make_adversarial,
    make_data,
    make_module,
    make_tokenizer,
    make_trainer,
    weights,
)
from vistok.backbones import ConvEncoder, FlowDecoder
from vistok.errors import RecipeError, VistokError
from vistok.losses import LossTerms
from vistok.quantizers import FSQ, VQ, Gaussian, Identity
from vistok.tokenizer import Tokenizer
from vistok.training import OptimizerSettings


@pytest.mark.parametrize("gan", [False, True])
def test_one_counter_counts_steps_of_the_tokenizer(tmp_path, gan):
    module, trainer = make_module(gan), make_trainer(tmp_path, steps=3)
    trainer.fit(module, make_data())
    assert module.step == trainer.global_step == 3


def test_both_networks_move_and_the_average_lags_behind(tmp_path):
    module = make_module(gan=True, ema_decay=0.9)
    before = weights(module)
    make_trainer(tmp_path, steps=2).fit(module, make_data())
    moved = differing(before, weights(module))
    for part in (
        "tokenizer.encoder",
        "tokenizer.quantizer",
        "tokenizer.decoder",
        "adversarial.discriminator",
        "ema.average",
    ):
        assert any(name.startswith(part) for name in moved), part
    assert module.exported is module.ema.average
    assert differing(weights(module.exported), weights(module.tokenizer))


def test_the_discriminator_waits_for_its_start(tmp_path):
    module = make_module(adversarial=make_adversarial(start=2))
    before = weights(module.adversarial)
    make_trainer(tmp_path, steps=2).fit(module, make_data())
    assert not differing(before, weights(module.adversarial))
    make_trainer(tmp_path, steps=1).fit(module, make_data())
    assert differing(before, weights(module.adversarial))


@pytest.mark.parametrize("quantizer", [FSQ((4, 3)), Gaussian(4)], ids=lambda q: type(q).__name__)
def test_any_quantizer_trains(tmp_path, quantizer):
    module = make_module(tokenizer=make_tokenizer(quantizer))
    before = weights(module.tokenizer)
    trainer = make_trainer(tmp_path, steps=2)
    trainer.fit(module, make_data())
    assert differing(before, weights(module.tokenizer))
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())


def drawing_tokenizer():
    """One whose decoder draws, and so has a loss of its own."""
    torch.manual_seed(0)
    encoder = ConvEncoder(4, channels=8, multipliers=(1, 1), num_res_blocks=1)
    return Tokenizer(encoder, Identity(4), FlowDecoder(4, 8, (1,), num_res_blocks=1, num_steps=1))


def test_a_decoder_with_a_loss_of_its_own_trains_by_it_and_draws_for_validation(tmp_path):
    module = make_module(tokenizer=drawing_tokenizer(), losses=LossTerms({"flow": 1.0}))
    before = weights(module.tokenizer)
    trainer, data = make_trainer(tmp_path, steps=2, limit_val_batches=1), make_data(val="procedural:5:4")
    trainer.fit(module, data)
    metrics = dict(trainer.callback_metrics)
    trainer.validate(module, data, verbose=False)
    metrics |= trainer.callback_metrics
    assert {"loss/flow", "val/flow", "val/psnr"} <= metrics.keys()
    assert all(torch.isfinite(value) for value in metrics.values())
    moved = differing(before, weights(module.tokenizer))
    for part in ("encoder", "decoder"):
        assert any(name.startswith(part) for name in moved), part


def test_a_loss_on_pixels_needs_a_decoder_that_decodes_in_training(tmp_path):
    losses = LossTerms({"flow": 1.0, "l1": 1.0})
    module = make_module(tokenizer=drawing_tokenizer(), losses=losses)
    with pytest.raises(RecipeError, match="'l1' has a weight but the tokenizer does not decode to pixels"):
        make_trainer(tmp_path, steps=1).fit(module, make_data())
    with pytest.raises(RecipeError, match="FlowDecoder does not decode in training"):
        make_module(gan=True, tokenizer=drawing_tokenizer(), losses=LossTerms({"flow": 1.0}))


def test_accumulated_micro_batches_equal_one_large_batch(tmp_path):
    """Two halves of a batch give the step that the whole gives, discriminator included."""

    def trained(batch_size, accumulate):
        tokenizer = make_tokenizer()
        tokenizer.quantizer.prepared.fill_(True)  # k-means would see the first micro-batch only
        adversarial = make_adversarial(adaptive=False)
        module = make_module(tokenizer=tokenizer, adversarial=adversarial, accumulate=accumulate)
        # plain gradient descent: Adam would blow rounding of tiny gradients up to the size of a step
        module.configure_optimizers = lambda: [
            torch.optim.SGD(part.parameters(), lr=1e-2) for part in (module.tokenizer, module.adversarial)
        ]
        make_trainer(tmp_path, steps=2).fit(module, crops_loader(batch_size))
        assert module.step == 2
        return weights(module)

    whole, halves = trained(4, 1), trained(2, 2)
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_the_rate_follows_the_step(tmp_path):
    module = make_module(optimizer=OptimizerSettings(lr=1.0e-3, warmup_steps=4))
    make_trainer(tmp_path, steps=2).fit(module, make_data())
    assert module.trainer.callback_metrics["optimizer/lr"] == pytest.approx(0.5e-3)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path, ema_decay):
    class Exploding(LossTerms):
        def forward(self, batch, output, encoder_layer=None):
            total, terms = super().forward(batch, output, encoder_layer)
            return total * float("nan"), terms

    losses = Exploding({"l1": 1.0, "commitment": 0.25, "codebook": 1.0})
    tokenizer = make_tokenizer(VQ(16, 4, init="uniform"))
    module = make_module(gan=True, tokenizer=tokenizer, losses=losses, ema_decay=ema_decay)
    before = weights(module)
    with pytest.raises(VistokError, match=r"loss=nan.* at step 0, images .*procedural.*weights were touched"):
        make_trainer(tmp_path, steps=3).fit(module, make_data())
    assert module.step == 0 and not differing(before, weights(module))


def test_images_that_are_not_finite_are_named(tmp_path):
    data = make_data()
    clean = data.train_dataloader

    def poisoned():
        for number, batch in enumerate(clean()):
            if number == 1:
                batch["image"][2, 0, 3, 3] = float("inf")
            yield batch

    data.train_dataloader = poisoned
    module = make_module()
    with pytest.raises(VistokError, match="of step 1 hold values that are not finite"):
        make_trainer(tmp_path, steps=3).fit(module, data)
    assert module.step == 1


def test_bf16_trunks_train_with_a_float32_quantizer(tmp_path):
    module = make_module(gan=True)
    seen = []
    module.tokenizer.quantizer.register_forward_hook(
        lambda _m, _i, output: seen.append(output.quantized.dtype)
    )
    make_trainer(tmp_path, steps=2, precision="bf16-mixed").fit(module, make_data())
    assert module.step == 2 and set(seen) == {torch.float32}


@pytest.mark.parametrize(("scale", "moves"), [(1024.0, True), (2.0**60, False)])
def test_fp16_scales_both_optimizers_by_one_scale_and_skips_steps_that_overflow(tmp_path, scale, moves):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = make_module(gan=True, tokenizer=make_tokenizer(FSQ((4, 3))))
    before = weights(module)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    make_trainer(tmp_path, steps=2, plugins=[plugin]).fit(module, make_data())
    after = weights(module)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert bool(differing(before, after)) == moves
    # lowered once a step although two optimizers overflowed
    assert scaler.get_scale() == (scale if moves else scale / 4)


def test_a_loss_without_a_weight_is_refused_before_training():
    with pytest.raises(RecipeError, match="commitment"):
        make_module(losses=LossTerms({"l1": 1.0}))


def test_accumulate_below_one_is_refused():
    with pytest.raises(RecipeError, match="accumulate"):
        make_module(accumulate=0)
