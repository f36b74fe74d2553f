import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.losses import contrastive_ranks
from tests.losses.towers import Letters
from vistok.errors import RecipeError
from vistok.losses import Contrastive, LossTerms

# two pairs: the first agrees, the second is at a right angle to its text and agrees with the first text
FEATURES = torch.tensor([[2.0, 0.0], [3.0, 0.0]]).view(2, 1, 1, 2)
TEXTS = torch.tensor([[5.0, 0.0], [0.0, 1.0]])


def test_sigmoid_has_its_closed_form():
    loss = Contrastive(Letters(2), "sigmoid", scale=2.0, bias=-0.5)(FEATURES, TEXTS)
    # logits [[1.5, -0.5], [1.5, -0.5]]; pairs on the diagonal
    terms = [
        math.log1p(math.exp(-1.5)),
        math.log1p(math.exp(-0.5)),
        math.log1p(math.exp(1.5)),
        math.log1p(math.exp(0.5)),
    ]
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-6)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_one_vector_an_image_is_taken_as_it_is(form):
    loss = Contrastive(Letters(2), form)
    assert torch.equal(loss(FEATURES.flatten(0, 2), TEXTS), loss(FEATURES, TEXTS))


def test_softmax_has_its_closed_form():
    loss = Contrastive(Letters(2), "softmax", scale=2.0)(FEATURES, TEXTS)
    to_texts = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(2.0))) / 2
    to_images = (math.log(2) + math.log(2)) / 2
    assert loss.item() == pytest.approx((to_texts + to_images) / 2, rel=1e-6)


def test_the_scale_begins_where_the_papers_have_it_and_is_bounded_in_the_softmax_form():
    assert Contrastive(Letters(2)).log_scale.exp().item() == pytest.approx(10)
    assert Contrastive(Letters(2)).bias.item() == -10
    softmax = Contrastive(Letters(2), "softmax")
    assert softmax.log_scale.exp().item() == pytest.approx(1 / 0.07) and softmax.bias is None
    bounded, beyond = (Contrastive(Letters(2), "softmax", scale=s)(FEATURES, TEXTS) for s in (100.0, 1e4))
    torch.testing.assert_close(beyond, bounded)


def test_positions_are_averaged_before_the_comparison():
    spread = torch.tensor([[[[1.0, 1.0], [1.0, -1.0]]], [[[3.0, 2.0], [3.0, -2.0]]]])
    loss = Contrastive(Letters(2))
    torch.testing.assert_close(loss(spread, TEXTS), loss(FEATURES, TEXTS))


def test_the_result_is_the_same_on_one_two_and_four_processes(tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path[1:]]),
    }
    contrastive_ranks.run(0, 1, tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", contrastive_ranks.__name__, str(rank), str(size), str(tmp_path)],
            env=environment,
        )
        for size in (2, 4)
        for rank in range(size)
    ]
    assert [process.wait(timeout=240) for process in running] == [0] * 6
    one, *others = (torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2, 4))
    assert all("loss.text.vectors.weight" in form and "loss.log_scale" in form for form in one.values())
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def batch(captions=("a cat", "two dogs")):
    return {"image": torch.zeros(2, 3, 8, 8), "key": ["a", "b"], "caption": list(captions)}


class Output:
    def __init__(self, features):
        self.image, self.features, self.losses = None, features, {}


def test_a_frozen_tower_is_neither_trained_nor_saved_and_the_scale_is():
    tower = Letters(2)
    loss = Contrastive(tower)
    features = FEATURES.clone().requires_grad_()
    loss.measure(batch(), Output(features)).backward()
    assert features.grad.abs().sum() > 0
    assert tower.vectors.weight.grad is None
    assert {*loss.state_dict()} == {"log_scale", "bias"} == {name for name, _ in loss.named_parameters()}
    assert loss.log_scale.grad is not None and loss.bias.grad is not None


def test_a_tower_that_is_not_frozen_trains():
    tower = Letters(2)
    Contrastive(tower, frozen=False).measure(batch(), Output(FEATURES)).backward()
    assert tower.vectors.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_half_precision_is_compared_in_float32(form):
    loss = Contrastive(Letters(2), form, scale=2.0, bias=-0.5)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(FEATURES.bfloat16(), TEXTS.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(FEATURES, TEXTS))


def test_training_steps_bring_images_near_their_captions(tmp_path):
    """Through the whole training: captions beside images reach the loss, and its scale moves."""
    from PIL import Image

    from tests.training.parts import make_data, make_module, make_tokenizer, make_trainer
    from vistok import Tokenizer
    from vistok.backbones import FeatureDecoder

    for name, colour in (("red", "red"), ("green", "green"), ("blue", "blue"), ("white", "white")):
        Image.new("RGB", (24, 24), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"all {name}\nde.utf8=etwas\n")
    made = make_tokenizer()
    tokenizer = Tokenizer(
        made.encoder,
        made.quantizer,
        made.decoder,
        feature_head=FeatureDecoder(4, 6, width=8, depth=0, num_heads=1),
    )
    weights = {"l1": 1.0, "commitment": 0.25, "codebook": 0.25, "text": 1.0}
    losses = LossTerms(weights, terms={"text": Contrastive(Letters(6), frozen=False)})
    module = make_module(tokenizer=tokenizer, losses=losses)
    trainer = make_trainer(tmp_path / "run", 2, val_check_interval=2)
    before = {name: value.clone() for name, value in losses.state_dict().items()}
    trainer.fit(module, make_data(train=str(tmp_path), val=str(tmp_path)))
    assert trainer.callback_metrics["loss/text"].isfinite() and trainer.callback_metrics["val/text"] > 0
    after = losses.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"form": "clip"}, "sigmoid or softmax"), ({"scale": 0.0}, "scale is 0.0: it must be above 0")],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Contrastive(Letters(2), **arguments)


def test_a_tower_of_another_width_is_refused_with_the_remedy():
    with pytest.raises(
        RecipeError, match="2 channels but the text tower gives 3: set the head's dim_out to 3"
    ):
        Contrastive(Letters(3)).measure(batch(), Output(FEATURES))
