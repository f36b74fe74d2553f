"""Whole runs: what they log, what they leave behind, and how they end."""

from __future__ import annotations

import csv
import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from vistok import load
from vistok.errors import RecipeError, VistokError
from vistok.training import fit
from vistok.training.run import WrongOptionError, build

RECIPES = ["vqgan_f16", "tiny"]
SMALL = [
    "--model.losses.init_args.weights.perceptual",
    "0",
    "--data.size",
    "32",
    "--data.val",
    "procedural:2:40",
]


def options(folder, steps=4):
    return [*SMALL, "--trainer.default_root_dir", str(folder), "--trainer.max_steps", str(steps)]


def test_a_run_leaves_metrics_pictures_a_checkpoint_and_a_tokenizer(tmp_path):
    module, trainer = fit(RECIPES, options(tmp_path))
    assert module.step == trainer.global_step == 4
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {
        "loss/l1",
        "loss/commitment",
        "loss/discriminator",
        "val/psnr",
        "codebook/usage",
        "codebook/perplexity",
    } <= {*rows[0]}
    assert {int(row["step"]) for row in rows} == {1, 2, 3, 4}
    with Image.open(tmp_path / "images" / "step=0000003.png") as picture:
        assert picture.size == (64, 64)  # two images of 32 x 32, each above its reconstruction
    assert (tmp_path / "config.yaml").is_file()
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["vistok_step"] == checkpoint["global_step"] == 4
    loaded = dict(load(tmp_path / "tokenizer").named_parameters())
    assert all(torch.equal(loaded[name], value) for name, value in module.ema.average.named_parameters())


def test_a_second_run_in_the_same_folder_keeps_the_metrics_of_the_first(tmp_path):
    (tmp_path / "metrics.csv").write_text("step\n1\n")
    fit(RECIPES, [*options(tmp_path, steps=1), "--trainer.limit_val_batches", "0"])
    assert (tmp_path / "metrics.1.csv").read_text() == "step\n1\n"
    assert (tmp_path / "metrics.csv").is_file()


def test_training_usage_is_exact_over_each_window(tmp_path):
    class Watch(pl.Callback):
        seen, logged = [], []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append(outputs["indices"].flatten())
            if pl_module.step % 2 == 0:
                counts = torch.bincount(torch.cat(self.seen), minlength=32).double()
                share = counts / counts.sum()
                expected = (float((counts > 0).double().mean()), float(torch.special.entr(share).sum().exp()))
                self.logged.append((expected, {**trainer.callback_metrics}))
                self.seen.clear()

    watch = Watch()
    fit(RECIPES, [*options(tmp_path), "--trainer.limit_val_batches", "0"], callbacks=[watch])
    assert len(watch.logged) == 2
    for (usage, perplexity), metrics in watch.logged:
        assert float(metrics["codebook/usage"]) == pytest.approx(usage)
        assert float(metrics["codebook/perplexity"]) == pytest.approx(perplexity, rel=1e-5)


def test_tensorboard_gets_metrics_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = "lightning.pytorch.loggers.TensorBoardLogger"
    fit(
        RECIPES,
        [*options(tmp_path), "--trainer.logger", logger, "--trainer.logger.save_dir", str(tmp_path / "tb")],
    )
    (events,) = (tmp_path / "tb").rglob("events.out.tfevents*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert "val/psnr" in log.Tags()["scalars"] and "val/images" in log.Tags()["images"]
    assert [event.step for event in log.Scalars("loss/total")] == [1, 2, 3, 4]


def test_wandb_works_offline_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    import wandb

    logger = "lightning.pytorch.loggers.WandbLogger"
    fit(RECIPES, [*options(tmp_path), "--trainer.logger", logger, "--trainer.logger.save_dir", str(tmp_path)])
    wandb.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb")) and list(run.rglob("media/images/val/*.png"))


def test_ctrl_c_ends_after_the_step_and_saves(tmp_path):
    class PressCtrlC(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    cli = build("fit", RECIPES, options(tmp_path, steps=100), callbacks=[PressCtrlC()])
    cli.run()
    assert cli.interrupt.interrupted and cli.model.step == 3
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["vistok_step"] == 3
    assert load(tmp_path / "tokenizer").spec.provenance["trained_steps"] == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_of_another_recipe_is_refused_in_one_line(tmp_path):
    fit(RECIPES, [*options(tmp_path, steps=1), "--trainer.limit_val_batches", "0"])
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    cli = build("fit", ["fsq_f16", "tiny"], [*options(tmp_path), "--ckpt_path", checkpoint])
    with pytest.raises(RecipeError, match="another recipe") as caught:
        cli.run()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.ckpt").write_text("# not a checkpoint")
    with pytest.raises(RecipeError, match="cannot be read"):
        build("fit", RECIPES, ["--ckpt_path", str(tmp_path / "x.ckpt")])


@pytest.mark.parametrize("option", ["--model.optimizer.lrr=1", "--trainer.max_steps=many", "--model.typo=1"])
def test_a_wrong_option_is_told_in_one_line(option):
    with pytest.raises(WrongOptionError) as caught:
        build("fit", RECIPES, [option])
    assert "\n" not in str(caught.value) and option.partition("=")[0].rpartition(".")[2] in str(caught.value)


def test_a_recipe_that_never_ends_is_refused():
    with pytest.raises(RecipeError, match="when to stop"):
        build("fit", RECIPES, ["--trainer.max_steps=-1"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--data.train", "nowhere"], "nowhere"),
        (["--data.size", "40"], "data.size=40"),
        (["--trainer.devices", "99"], "trainer.devices=99"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(tmp_path, given, told):
    with pytest.raises(VistokError, match=told) as caught:
        fit(RECIPES, [*options(tmp_path / "new" / "run"), *given])
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


def test_an_empty_folder_of_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VistokError, match="empty"):
        build("fit", RECIPES, [*options(tmp_path / "run"), "--data.train", str(tmp_path / "empty")])


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match=r"a file is in the way; set trainer\.default_root_dir"):
        fit(RECIPES, options(tmp_path / "file"))


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path):
    class Failing(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            raise VistokError("no")

    with pytest.raises(VistokError, match="no"):
        fit(RECIPES, options(tmp_path / "new" / "run"), callbacks=[Failing()])
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(VistokError, match="no"):
        fit(RECIPES, options(tmp_path / "mine"), callbacks=[Failing()])
    assert (tmp_path / "mine").is_dir()


def test_validation_needs_trained_weights_and_images(tmp_path):
    with pytest.raises(WrongOptionError, match="--ckpt_path"):
        build("validate", RECIPES, options(tmp_path))
    fit(RECIPES, [*options(tmp_path, steps=1), "--export.licence", "MIT"])
    metrics, config = (tmp_path / "metrics.csv").read_text(), (tmp_path / "config.yaml").read_text()
    cli = build("validate", RECIPES, options(tmp_path))
    cli.run()
    assert cli.model.step == 1
    assert (tmp_path / "metrics.csv").read_text() == metrics
    assert (tmp_path / "config.yaml").read_text() == config
    with pytest.raises(RecipeError, match=r"data\.val"):
        build("test", RECIPES, [*options(tmp_path), "--data.val", "null"])
    spec = load(tmp_path / "tokenizer").spec
    known = spec.provenance
    assert spec.licence == "MIT" and known["recipes"] == RECIPES and len(known["recipe_hash"]) == 16
    assert known["data"] == "procedural:16" and known["trained_steps"] == 1 and known["seed"] == 0
    assert known["torch"] == torch.__version__ and known["vistok"]
