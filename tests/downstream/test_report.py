import re

import pytest
import torch

from vistok.downstream import Point, Result
from vistok.downstream.flow import flow_baselines
from vistok.downstream.report import write_report
from vistok.downstream.tokens import Tokens
from vistok.tokenizer import Encoded, StreamTokens


def encoded(indices, latents):
    return Encoded({"pixel": StreamTokens(indices, latents, (4, 4))}, (8, 8))


def result(**changed):
    told = {
        "tokenizer": "<tok>", "weights_hash": "ab" * 32, "backbone": "masked", "unit": "bits/image", "is_bound": True, "loss": 100.0,
        "train_loss": 90.0, "baselines": {"unigram": 128.0}, "details": {}, "points": [Point(0, 130, 131), Point(9, 90, 100)],
        "num_train": 5, "num_held_out": 2, "parameters": 10, "seconds": 1.0, "sample_tokens": encoded(torch.zeros(2, 16, 1, dtype=torch.int64), None), "captions": (),
        "samples": torch.zeros(2, 3, 8, 8), "real": torch.zeros(2, 3, 8, 8),
        "held_out": Tokens(encoded(torch.zeros(2, 16, 1, dtype=torch.int64), None)),
    }  # fmt: skip
    return Result(**{**told, **changed})


def test_the_page_holds_samples_reconstructions_and_the_curve_and_nothing_from_outside(tmp_path):
    html = write_report(result(), tmp_path).read_text()
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 5 and all(source.startswith("data:image/") for source in sources)
    assert "&lt;tok&gt;" in html and "<tok>" not in html and "http" not in html
    assert "≤ 100" in html and "6.25" in html and "8.00" in html
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2 and (tmp_path / "result.json").is_file()


@pytest.mark.parametrize("captions", [(), ("dark red smooth", "")])
def test_the_page_of_a_flow_says_that_there_are_no_bits(tmp_path, captions):
    flow = result(
        unit="flow loss", is_bound=False, loss=1.2, baselines={"independent": 1.571, "mean": 2.0}, captions=captions,
        held_out=Tokens(encoded(None, torch.zeros(2, 16, 4))), backbone="diffusion",
    )  # fmt: skip
    html = write_report(flow, tmp_path).read_text()
    assert "no bits per image" in html
    assert "1.200, below the 1.571 of independent normal values" in html and "2.000" in html
    assert all(caption in html for caption in captions)


def test_a_flow_that_beats_the_mean_alone_is_not_below_the_baseline():
    baselines = flow_baselines(torch.randn(500, 16, 4))
    flow = result(
        unit="flow loss", is_bound=False, loss=1.8, baselines=baselines, backbone="diffusion",
        held_out=Tokens(encoded(None, torch.zeros(2, 16, 4))),
    )  # fmt: skip
    told = dict(flow.rows())
    assert not flow.is_below and "NOT below" in told["held-out flow loss"]
    assert flow.to_json_data()["baseline"] == baselines["independent"]
    assert told["flow loss of predicting the mean"] == f"{baselines['mean']:.3f}"


def test_a_tokenizer_without_pictures_has_a_page_too(tmp_path):
    features = result(samples=None, real=None)
    assert "gives features" in write_report(features, tmp_path).read_text()
    assert dict(features.rows())["pictures"].startswith("none") and "pictures" not in dict(result().rows())


def test_the_table_says_where_positions_are_of_several_scales():
    tokens = Encoded({"pixel": StreamTokens(torch.zeros(2, 21, 1, dtype=torch.int64), None, (4, 4))}, (8, 8))
    assert dict(result(held_out=Tokens(tokens)).rows())["tokens"] == "21 an image, scales up to 4 x 4"
    assert dict(result().rows())["tokens"] == "16 an image, grid 4 x 4"
