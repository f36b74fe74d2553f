"""The watchdog: what it counts, and what it does when a codebook collapses."""

from __future__ import annotations

import csv
import multiprocessing
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch.multiprocessing.spawn import start_processes

from tests.ranks import group
from tests.training.parts import make_data, make_module, make_tokenizer, make_trainer
from vistok import Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.errors import RecipeError, VistokError
from vistok.evaluation import CodebookUsage
from vistok.losses import LossTerms
from vistok.quantizers import FSQ, VQ
from vistok.tokenizer import Branch, Merge
from vistok.training import CodebookWatchdog, UsageMonitor, fit
from vistok.training.health import dead_rate, share_of_reachable
from vistok.training.usage import UsageWindow


class Revivable(VQ):
    """A VQ that moves the codes it is told to onto the first latents."""

    def revive(self, dead, latent):
        codes = self.codebook.detach().clone()
        rows = latent.reshape(-1, self.dim)[: int(dead.sum())].float()
        codes[dead[0].nonzero().squeeze(1)[: len(rows)]] = rows
        self.codebook.data.copy_(codes)
        return True


def collapsed(cls=VQ):
    """All codes but the first lie where no latent comes."""
    quantizer = cls(16, 4, init="uniform")
    quantizer.codebook.data[0] = 0
    quantizer.codebook.data[1:] = 100 + torch.arange(15.0).unsqueeze(1)
    return quantizer


def train(folder, watchdog, quantizer, steps=4, logger=False):
    module = make_module(tokenizer=make_tokenizer(quantizer))
    trainer = make_trainer(folder, steps, callbacks=[watchdog], logger=logger, log_every_n_steps=1)
    trainer.fit(module, datamodule=make_data())
    return module, trainer


def test_a_collapsed_window_is_warned_of_with_its_numbers(tmp_path):
    watchdog = CodebookWatchdog(window=2, min_usage=0.5)
    with pytest.warns(UserWarning, match=r"step 2: the last 2 steps chose 1 of 16 codes .* perplexity 1\.0"):
        _, trainer = train(tmp_path, watchdog, collapsed())
    assert watchdog.num_unhealthy == 2
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["watchdog/usage"] == 1 / 16 and metrics["watchdog/dead_rate"] == 15 / 16
    assert metrics["watchdog/perplexity"] == pytest.approx(1)


def test_a_healthy_codebook_is_left_in_peace(tmp_path):
    watchdog = CodebookWatchdog(window=2, min_usage=0.2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*codes.*")
        train(tmp_path, watchdog, None)  # of k-means, so that every code is chosen
    assert watchdog.num_unhealthy == 0


def test_dead_codes_come_back_to_life(tmp_path):
    watchdog = CodebookWatchdog(window=2, min_usage=0.5, revive=True)
    with pytest.warns(UserWarning, match="dead codes were revived"):
        module, trainer = train(tmp_path, watchdog, collapsed(Revivable), steps=4)
    assert float(trainer.callback_metrics["watchdog/usage"]) > 1 / 16
    assert float(module.tokenizer.quantizer.codebook.detach().abs().max()) < 100


def test_a_quantizer_whose_codes_cannot_move_is_only_warned_of(tmp_path):
    assert not FSQ.tiny().revive(torch.ones(1, 12).bool(), torch.zeros(1, 2))
    watchdog = CodebookWatchdog(window=2, min_usage=1, revive=True)
    with pytest.warns(UserWarning, match=r"perplexity [\d.]+$"):
        train(tmp_path, watchdog, FSQ((8, 8, 8)), steps=2)


def test_a_run_that_stays_collapsed_is_stopped_in_one_line(tmp_path):
    watchdog = CodebookWatchdog(window=1, min_usage=0.5, stop_after=3)
    with (
        pytest.warns(UserWarning, match="chose 1 of 16"),
        pytest.raises(VistokError, match="3 windows in a row: training stopped; lower") as caught,
    ):
        train(tmp_path, watchdog, collapsed(), steps=50)
    assert "\n" not in str(caught.value) and "step 3:" in str(caught.value)


def test_the_count_of_unhealthy_windows_outlives_a_restart():
    watchdog, again = CodebookWatchdog(), CodebookWatchdog()
    watchdog.num_unhealthy = 2
    again.load_state_dict(watchdog.state_dict())
    assert again.num_unhealthy == 2


def test_wandb_gets_an_alert_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    import wandb

    logger = WandbLogger(save_dir=str(tmp_path), project="watchdog", offline=True)
    with pytest.warns(UserWarning, match="chose 1 of 16"):
        train(tmp_path, CodebookWatchdog(window=2, min_usage=0.5), collapsed(), logger=logger)
    wandb.finish()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    # strings of the record stand in the file as they are
    assert b"few codes in use" in file.read_bytes() and b"chose 1 of 16 codes" in file.read_bytes()


def test_it_has_a_section_of_its_own_in_a_recipe(tmp_path):
    options = ["--watchdog.window", "2", "--watchdog.min_usage", "0", "--data.size", "32"]
    options += ["--model.losses.init_args.weights.perceptual", "0", "--trainer.limit_val_batches", "0"]
    fit(
        ["vqgan_f16", "tiny"],
        [*options, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_steps", "2"],
    )
    with (tmp_path / "metrics.csv").open() as file:
        assert any(row["watchdog/dead_rate"] for row in csv.DictReader(file))


@pytest.mark.parametrize("wrong", [{"window": 0}, {"min_usage": 1.5}, {"stop_after": -1}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        CodebookWatchdog(**wrong)


def test_few_tokens_are_held_to_what_they_could_reach():
    usage = CodebookUsage(1000, 2)
    usage.update(torch.arange(10).unsqueeze(1).expand(10, 2))
    assert share_of_reachable(usage) == pytest.approx(1) and dead_rate(usage) == 0.99
    assert share_of_reachable(CodebookUsage(4)) == 1


def _count(rank: int, world_size: int, folder: str) -> None:
    window = UsageWindow(3)  # built before the process group exists, as under Lightning
    with group(rank, world_size, folder):
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            indices = torch.randint(0, 50, (4, 6, 2), generator=generator)
            usage = window.add({"indices": indices.chunk(world_size)[rank], "stepped": True}, 64)
        torch.save(usage.counts, Path(folder) / f"{world_size}-{rank}.pt")


def test_a_window_counts_the_same_on_1_2_and_4_processes(tmp_path):
    _count(0, 1, str(tmp_path))
    multiprocessing.set_forkserver_preload(["vistok.training"])
    expected = torch.load(tmp_path / "1-0.pt")
    assert int(expected.sum()) == 3 * 4 * 6 * 2
    for world_size in (2, 4):
        # forked from a process that has imported everything once, and has done nothing else
        start_processes(_count, (world_size, str(tmp_path)), nprocs=world_size, start_method="forkserver")
        for rank in range(world_size):
            assert torch.equal(torch.load(tmp_path / f"{world_size}-{rank}.pt"), expected)


@pytest.mark.filterwarnings("ignore:.*codes.*")
def test_every_stream_is_watched_and_revived_by_its_own_name(tmp_path):
    size = {"channels": 8, "multipliers": (1, 1), "num_res_blocks": 1}
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        ConvEncoder(4, **size),
        VQ(16, 4),
        ConvDecoder(8, **size),
        branches=[Branch(ConvEncoder(4, **size), collapsed(Revivable), name="detail", merge=Merge())],
    )
    losses = LossTerms({"l1": 1.0, **dict.fromkeys(tokenizer.loss_names, 0.25)})
    module = make_module(tokenizer=tokenizer, losses=losses)
    watchdog = CodebookWatchdog(window=2, min_usage=0.3, revive=True)
    callbacks = [watchdog, UsageMonitor(window=2)]
    trainer = make_trainer(tmp_path, 2, callbacks=callbacks, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="stream detail, step 2: .* 1 of 16 codes .* were revived"):
        trainer.fit(module, datamodule=make_data())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["watchdog/detail/usage"] == metrics["codebook/detail/usage"] == 1 / 16
    assert metrics["watchdog/pixel/usage"] > 0.3
    assert float(tokenizer.branches[0].quantizer.codebook.detach().abs().max()) < 100
