import json
import re

import numpy as np
import pytest
from PIL import Image

from vistok.demo import figures
from vistok.demo.report import write_report

CODES = 16


@pytest.fixture
def finished(tmp_path):
    """A demo's directory with the least that a report needs."""
    random = np.random.default_rng(0)
    for folder in ("held_out", "samples", "training"):
        (tmp_path / folder).mkdir()
    for kind in ("original", "reconstruction"):
        Image.fromarray(random.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(
            tmp_path / "held_out" / f"<pic>-{kind}.png"
        )
    (tmp_path / "held_out" / "<pic>-tokens.json").write_text(
        json.dumps(random.integers(0, CODES, (2, 3)).tolist())
    )
    for number in range(2):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / "samples" / f"{number}.png"
        )
    (tmp_path / "training" / "metrics.1.csv").write_text("step,loss/total,val/psnr\n1,2.0,\n9,9.0,\n")
    (tmp_path / "training" / "metrics.csv").write_text(
        "step,loss/total,loss/l1,val/psnr,codebook/usage,codebook/perplexity\n2,1.0,0.5,,,\n2,,,20.0,0.5,7\n"
    )
    (tmp_path / "downstream.csv").write_text("step,train_bits,held_out_bits\n0,4,4\n5,3,3.5\n")
    down = {
        "loss_bits_per_token": 3.5,
        "unigram_bits_per_token": 4.0,
        "unigram_entropy_bits_per_token": 3.9,
        "evaluated_on": "9 tiles",
        "parameters": 10,
        "train_tiles": 3,
    }
    stages = {
        "train": {"recipe": "small.yaml", "steps": 2, "seconds": 1.0, "batch_size": 4},
        "reconstruct": {"pictures": [{"photo": "<pic>", "psnr": 12.34}]},
        "encode": {
            "num_tiles": 4, "num_tokens": 8, "num_shards": 1, "bytes": 100, "verified": "intact", "decoded": 4,
            "counts": [5] * (CODES - 1) + [0], "usage": 0.9375, "perplexity": 15.0, "usage_set": "75 tokens",
        },
        "learn": {**down, "samples": ["samples/0.png", "samples/1.png"]},
    }  # fmt: skip
    summary = {
        "held_out_psnr": {"<pic>": 12.34}, "held_out_psnr_protocol": "psnr/v1", "usage": 0.9375, "perplexity": 15.0,
        "train_seconds": 1.0, "total_seconds": 2.0, "downstream": down, "report": "report.html",
        "settings": {"seconds": 1.0, "photos": "/my/pictures", "recipe": "abc"},
    }  # fmt: skip
    return tmp_path, summary, stages


def test_the_report_holds_all_its_images_and_refers_to_nothing_outside(finished):
    html = write_report(*finished).read_text()
    sources = re.findall(r'src="([^"]*)"', html)
    # 3 of the photograph, the error scale, 2 of the token map, 5 plots, 2 samples
    assert len(sources) == 13
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in sources)
    assert "http:" not in html and "https:" not in html and "url(" not in html
    assert "<script" not in html and "<link" not in html


def test_the_report_escapes_names_of_files(finished):
    html = write_report(*finished).read_text()
    assert "<pic>" not in html and "&lt;pic&gt;" in html


def test_the_report_states_the_numbers_and_how_to_repeat_them(finished):
    html = write_report(*finished).read_text()
    for told in (
        "12.34 dB",
        "93.8%",
        "3.50",
        "4.00",
        "--photos /my/pictures",
        "psnr/v1",
        "75 tokens",
        "intact",
    ):
        assert told in html


def test_an_error_map_is_black_where_nothing_is_wrong_and_bright_where_all_is():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert figures.error_map(black, black).max() < 5
    assert figures.error_map(black, white).min() > 100


def test_a_token_map_gives_equal_colours_to_equal_indices_only():
    coloured = figures.token_map(np.array([[0, 1], [1, 0]]), 1024, enlarge=3)
    assert coloured.shape == (6, 6, 3)
    assert (coloured[0, 0] == coloured[5, 5]).all() and (coloured[0, 5] == coloured[5, 0]).all()
    assert (coloured[0, 0] != coloured[0, 5]).any()
