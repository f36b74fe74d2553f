from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vistok.errors import DataError, RecipeError
from vistok.losses import LossTerms, Perceptual, Semantic, Term


@dataclass
class Output:
    image: Tensor | None = None
    features: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


IMAGE = torch.zeros(2, 3, 8, 8)
BATCH = {"image": IMAGE, "key": ["a", "b"]}


def output(**losses: float) -> Output:
    return Output(
        image=torch.full_like(IMAGE, 0.5, requires_grad=True),
        losses={k: torch.tensor(v) for k, v in losses.items()},
    )


def test_the_total_is_the_weighted_sum_and_the_values_are_unweighted():
    terms = LossTerms({"l1": 2.0, "l2": 4.0, "commitment": 0.25})
    total, values = terms(BATCH, output(commitment=8.0))
    assert total.item() == 2 * 0.5 + 4 * 0.25 + 0.25 * 8
    assert {k: v.item() for k, v in values.items()} == {"l1": 0.5, "l2": 0.25, "commitment": 8.0}
    assert total.requires_grad
    assert not any(v.requires_grad for v in values.values())


def test_a_term_of_weight_zero_is_neither_computed_nor_built():
    terms = LossTerms({"l1": 1.0, "l2": 0.0, "perceptual": 0.0, "semantic": 0.0}, perceptual="lpips")
    assert set(terms.terms) == {"l1"}  # building it would need a download, which is not there
    assert set(terms(BATCH, output())[1]) == {"l1"}


def test_a_quantizer_loss_of_weight_zero_is_reported_and_does_not_train():
    total, values = LossTerms({"l1": 1.0, "entropy": 0})(BATCH, output(entropy=float("nan")))
    assert total.item() == 0.5
    assert values["entropy"].isnan()


def test_unknown_names_are_refused_with_the_known_ones():
    terms = LossTerms({"l1": 1.0, "comitment": 0.25})
    with pytest.raises(
        RecipeError,
        match=r"'comitment' .* l1, l2, perceptual, semantic, commitment; did you mean 'commitment'\?",
    ):
        terms.check(["commitment"])


def test_a_quantizer_loss_without_weight_is_refused_with_the_remedy():
    message = (
        "returns loss 'commitment' but the recipe gives it no weight: add commitment: 0.25, or commitment: 0"
    )
    with pytest.raises(RecipeError, match=message):
        LossTerms({"l1": 1.0}).check(["commitment"])
    with pytest.raises(RecipeError, match=message):
        LossTerms({"l1": 1.0})(BATCH, output(commitment=1.0))


def test_matching_names_pass_the_check():
    LossTerms({"l1": 1.0, "commitment": 0.25}).check(("commitment",))
    LossTerms({"l2": 1}).check(())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much", None])
def test_senseless_weights_are_refused(weight):
    with pytest.raises(RecipeError, match="'l1'"):
        LossTerms({"l1": weight})


@pytest.mark.parametrize("name", ["perceptual", "semantic"])
def test_a_weight_without_its_network_is_refused(name):
    with pytest.raises(RecipeError, match=f"'{name}' has a weight but no"):
        LossTerms({name: 1.0})


def test_all_weights_zero_is_refused():
    with pytest.raises(RecipeError, match="nothing would be trained"):
        LossTerms({"l1": 0.0})(BATCH, output())


def test_pixel_terms_need_a_pixel_decoder():
    with pytest.raises(RecipeError, match="does not decode to pixels"):
        LossTerms({"l1": 1.0})(BATCH, Output())


def test_perceptual_and_semantic_terms_take_part():
    from vistok.backbones import TimmEncoder

    torch.manual_seed(0)
    teacher = TimmEncoder("tf_efficientnet_lite0", weights="efficientnet-lite0")
    terms = LossTerms(
        {"perceptual": 1.0, "semantic": 0.5}, perceptual="efficientnet-lite0", semantic=Semantic(teacher)
    )
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    features = torch.rand(1, 2, 2, teacher.dim, requires_grad=True)
    batch = {"image": image}
    total, values = terms(batch, Output(image=torch.zeros_like(image, requires_grad=True), features=features))
    torch.testing.assert_close(total.detach(), values["perceptual"] + 0.5 * values["semantic"])
    assert isinstance(terms.terms["perceptual"], Perceptual)
    assert not terms.state_dict()
    with pytest.raises(RecipeError, match="no feature head"):
        terms(batch, Output(image=image))


class Brightness(Term):
    """What the mean of the features misses of the numbers in a field of the batch, times a gain that it trains."""

    needs = ("label",)

    def __init__(self, adaptive: bool = False) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.adaptive = adaptive

    def measure(self, batch, output):
        return self.gain * (output.features.mean((1, 2, 3)) - torch.tensor(batch["label"])).abs().mean()


FEATURES = torch.zeros(2, 1, 1, 4)


def test_a_term_of_ones_own_reads_the_batch_and_trains_with_its_weight():
    terms = LossTerms({"l1": 1.0, "brightness": 0.5}, terms={"brightness": Brightness()})
    terms.check(())
    made = output()
    made.features = FEATURES
    total, values = terms({**BATCH, "label": [1.0, 3.0]}, made)
    assert values["brightness"].item() == 2.0 and total.item() == 0.5 + 0.5 * 2.0
    total.backward()
    assert terms.terms["brightness"].gain.grad.item() == 0.5 * 2.0


def test_a_further_term_of_weight_zero_is_not_kept():
    terms = LossTerms({"l1": 1.0, "brightness": 0}, terms={"brightness": Brightness()})
    terms.check(())
    assert not list(terms.parameters()) and set(terms(BATCH, output())[1]) == {"l1"}


def test_validation_leaves_a_term_out_whose_field_is_not_there_and_training_does_not():
    from vistok.losses import Contrastive

    made = output()
    made.features = FEATURES
    terms = LossTerms({"l1": 1.0, "text": 1.0}, terms={"text": Contrastive(torch.nn.Identity())})
    for batch in (BATCH, {**BATCH, "caption": ["a flower", None]}):
        assert set(terms.eval()(batch, made)[1]) == {"l1"}
    with pytest.raises(DataError, match=r"image 'b' has no caption.*\.txt file"):
        terms.train()({**BATCH, "caption": ["a flower", None]}, made)
    with pytest.raises(DataError, match="image 'a' has no caption"):
        terms(BATCH, made)


@pytest.mark.parametrize(
    ("weights", "name", "message"),
    [({"l1": 1}, "code", "has no weight: add code"), ({"l2": 1}, "l2", "knows already")],
)
def test_further_terms_that_do_not_fit_the_weights_are_refused(weights, name, message):
    with pytest.raises(RecipeError, match=message):
        LossTerms(weights, terms={name: Brightness()})


def test_an_adaptive_term_gets_the_gradient_norm_of_the_losses_on_pixels():
    layer = torch.nn.Parameter(torch.full((1, 1), 0.5))
    terms = LossTerms({"l1": 4.0, "brightness": 0.5}, terms={"brightness": Brightness(adaptive=True)})
    assert terms.adaptive and not LossTerms({"l1": 1.0}).adaptive
    made = Output(image=layer * torch.ones_like(IMAGE), features=10 * layer * torch.ones_like(FEATURES))
    batch = {**BATCH, "label": [0.0, 0.0]}
    total, values = terms(batch, made, layer)
    # the gradients at the layer are 4 and 10
    assert values["brightness_weight"].item() == pytest.approx(4 / (10 + 1e-4))
    assert total.item() == pytest.approx(4 * 0.5 + 0.5 * 0.4 * 5.0, rel=1e-4)
    with torch.no_grad():
        total, values = terms(batch, made)
    assert total.item() == 4 * 0.5 + 0.5 * 5.0 and "brightness_weight" not in values


def test_an_adaptive_term_without_losses_on_pixels_is_refused():
    terms = LossTerms({"brightness": 1.0}, terms={"brightness": Brightness(adaptive=True)})
    with pytest.raises(RecipeError, match="adapts to the losses on pixels, and there are none"):
        terms({**BATCH, "label": [1.0, 1.0]}, Output(features=FEATURES), torch.ones(1))
