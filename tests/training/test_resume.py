"""A run that stopped goes on as if it had not."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.parts import differing, make_data, make_module, make_tokenizer, make_trainer, weights
from vistok.quantizers import VQ, Gaussian
from vistok.training import Checkpoint


def optimizer_state(trainer):
    return copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers])


def train(folder, steps, quantizer, data=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = make_module(gan=True, tokenizer=make_tokenizer(quantizer()), ema_decay=0.9, **options)
    trainer = make_trainer(folder, steps, callbacks=[Checkpoint()], val_check_interval=2)
    trainer.fit(module, data or make_data(val="procedural:2"), ckpt_path=ckpt_path, weights_only=True)
    return module, optimizer_state(trainer)


@pytest.mark.parametrize(
    ("steps", "quantizer", "options"),
    [
        (10, lambda: VQ(16, 4, revive_after=2), {}),
        (4, lambda: VQ(16, 4, update="ema"), {"accumulate": 2}),
        (4, lambda: Gaussian(4), {}),
    ],
    ids=["vq", "vq-ema-accumulated", "gaussian-draws"],
)
def test_a_run_in_two_parts_equals_one_in_whole_to_the_last_bit(tmp_path, steps, quantizer, options):
    whole, whole_state = train(tmp_path / "whole", 2 * steps, quantizer, **options)
    train(tmp_path / "parts", steps, quantizer, **options)
    checkpoint = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    parts, parts_state = train(tmp_path / "parts", 2 * steps, quantizer, ckpt_path=checkpoint, **options)
    assert parts.step == whole.step == 2 * steps
    assert not differing(weights(parts), weights(whole))
    for a, b in zip(parts_state, whole_state, strict=True):
        for key, state in b["state"].items():
            assert all(torch.equal(a["state"][key][name], value) for name, value in state.items())


def test_the_order_of_images_goes_on_in_the_middle_of_an_epoch(tmp_path):
    def keys_of(trainer_steps, first_step):
        data = make_data(seed=3)
        module = make_module()
        module.step = first_step
        make_trainer(tmp_path, trainer_steps).fit(module, data)
        loader = iter(data.train_dataloader())
        return [next(loader)["key"] for _ in range(2)]

    # after 1 step of 4 images, and told that there was 1: both stand inside the first epoch of 5 images
    assert keys_of(1, 0) == keys_of(0, 1) != keys_of(0, 0)


def test_workers_do_not_change_the_batches():
    def first(workers):
        data = make_data(workers=workers)
        module = make_module()
        trainer = make_trainer("unused", 1)
        trainer.strategy.connect(module)
        data.trainer = trainer
        stream = iter(data.train_dataloader())
        return [next(stream) for _ in range(4)]

    for alone, helped in zip(first(0), first(2), strict=True):
        assert alone["key"] == helped["key"] and torch.equal(alone["image"], helped["image"])
