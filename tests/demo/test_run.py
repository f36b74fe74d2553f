import json
import os
import re
import signal
import threading
import time

import pytest
import yaml
from PIL import Image

import vistok
from vistok import shards
from vistok.data import Procedural
from vistok.demo import DemoInterrupted, run
from vistok.errors import VistokError

SECONDS = 2.0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Three small pictures, and a recipe that is as small."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "pictures").mkdir()
    images = Procedural(3, 72)
    for index in range(3):
        images.read(index).save(folder / "pictures" / f"{index}.png")
    conv = {"dim": 8, "channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "patch": 4}
    recipe = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
        "data": {"size": 64, "batch_size": 4, "scale": [0.5, 1.0], "workers": 0},
        "usage": {"window": 2},
        "model": {
            "tokenizer": {
                "class_path": "vistok.Tokenizer",
                "init_args": {
                    "encoder": {"class_path": "vistok.backbones.ConvEncoder", "init_args": conv},
                    "quantizer": {
                        "class_path": "vistok.quantizers.VQ",
                        "init_args": {"codebook_size": 32, "dim": 8, "update": "ema"},
                    },
                    "decoder": {"class_path": "vistok.backbones.ConvDecoder", "init_args": conv},
                },
            },
            "losses": {
                "class_path": "vistok.losses.LossTerms",
                "init_args": {"weights": {"l2": 1.0, "commitment": 0.25}},
            },
            "optimizer": {"lr": 2e-3, "warmup_steps": 5},
        },
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    return {"photos": folder / "pictures", "recipe": str(folder / "small.yaml")}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run(out, seconds=SECONDS, **inputs)


def test_the_summary_says_what_was_found_and_where_it_is(finished):
    out, summary = finished
    assert summary == json.loads((out / "summary.json").read_text())
    assert list(summary["held_out_psnr"]) == ["2.png"] and summary["held_out_psnr"]["2.png"] > 5
    assert 0 < summary["usage"] <= 1 and 1 <= summary["perplexity"] <= 32
    assert summary["train_seconds"] <= summary["total_seconds"]
    assert {"loss_bits_per_token", "unigram_bits_per_token"} <= set(summary["downstream"])
    assert len(summary["samples"]) == 16
    for path in (summary["tokenizer"], summary["shards"], summary["report"], *summary["samples"]):
        assert (out / path).exists()


def test_what_is_left_behind_works_without_the_demo(finished):
    out, summary = finished
    tokenizer = vistok.load(out / summary["tokenizer"])
    assert shards.verify(out / summary["shards"]).ok
    item = shards.open(out / summary["shards"], tokenizer)[0]
    assert tokenizer.decode(indices=item["indices"][None], grid=item["grid"]).shape == (1, 3, 64, 64)
    assert Image.open(out / summary["samples"][0]).size == (64, 64)


def test_the_report_needs_nothing_but_itself(finished):
    out, _ = finished
    html = (out / "report.html").read_text()
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    assert "http:" not in html and "https:" not in html


def test_a_finished_demo_is_not_run_again(finished, inputs, capsys):
    out, summary = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(out, seconds=SECONDS, **inputs) == summary
    assert "finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_deleted_report_is_written_again_from_what_is_there(finished, inputs):
    out, summary = finished
    (out / "report.html").unlink()
    again = run(out, seconds=SECONDS, **inputs)
    assert (out / "report.html").is_file()
    assert again["held_out_psnr"] == summary["held_out_psnr"] and again["downstream"] == summary["downstream"]


def test_other_settings_in_the_same_directory_are_refused(finished, inputs):
    out, _ = finished
    with pytest.raises(VistokError, match=r"seconds=2\.0, not 3\.0"):
        run(out, seconds=3.0, **inputs)
    with pytest.raises(VistokError, match="photos="):
        run(out, seconds=SECONDS, photos=out / "samples", recipe=inputs["recipe"])


def test_an_interrupted_training_goes_on_from_its_checkpoint(inputs, tmp_path):
    out = tmp_path / "out"
    metrics = out / "training" / "metrics.csv"

    def press_ctrl_c():
        # the log appears after the first steps, when training listens
        while not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c, daemon=True).start()
    with pytest.raises(DemoInterrupted, match="checkpoint"):
        run(out, seconds=60.0, **inputs)
    assert (out / "training" / "checkpoints" / "last.ckpt").is_file()

    # the rest of a minute is long for a test: only the settings are to say that less is left
    state = json.loads((out / "state.json").read_text())
    state["settings"]["seconds"] = SECONDS
    (out / "state.json").write_text(json.dumps(state))
    summary = run(out, seconds=SECONDS, **inputs)
    assert (out / "training" / "metrics.1.csv").is_file()
    assert summary["total_seconds"] >= summary["train_seconds"] > state["seconds"]["train"]


def test_an_interrupted_later_stage_keeps_the_finished_ones(inputs, tmp_path, monkeypatch):
    from vistok.demo import stages

    def interrupted(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "learn", interrupted)
        with pytest.raises(DemoInterrupted, match=r"finished stages \(train, reconstruct, encode\)"):
            run(tmp_path / "out", seconds=SECONDS, **inputs)
    steps = json.loads((tmp_path / "out" / "state.json").read_text())["stages"]["train"]["steps"]
    run(tmp_path / "out", seconds=SECONDS, **inputs)
    assert json.loads((tmp_path / "out" / "state.json").read_text())["stages"]["train"]["steps"] == steps


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_training_time_that_is_none_is_refused(tmp_path, seconds):
    with pytest.raises(VistokError, match="--seconds"):
        run(tmp_path / "out", seconds=seconds)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_photographs_that_is_missing_leaves_no_directory(tmp_path):
    with pytest.raises(VistokError, match="--photos"):
        run(tmp_path / "out", seconds=1, photos=tmp_path / "none")
    assert not (tmp_path / "out").exists()
