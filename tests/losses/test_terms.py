from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vistok.errors import RecipeError
from vistok.losses import LossTerms, Perceptual, Semantic


@dataclass
class Output:
    image: Tensor | None = None
    features: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


IMAGE = torch.zeros(2, 3, 8, 8)


def output(**losses: float) -> Output:
    return Output(
        image=torch.full_like(IMAGE, 0.5, requires_grad=True),
        losses={k: torch.tensor(v) for k, v in losses.items()},
    )


def test_the_total_is_the_weighted_sum_and_the_values_are_unweighted():
    terms = LossTerms({"l1": 2.0, "l2": 4.0, "commitment": 0.25})
    total, values = terms(IMAGE, output(commitment=8.0))
    assert total.item() == 2 * 0.5 + 4 * 0.25 + 0.25 * 8
    assert {k: v.item() for k, v in values.items()} == {"l1": 0.5, "l2": 0.25, "commitment": 8.0}
    assert total.requires_grad
    assert not any(v.requires_grad for v in values.values())


def test_a_term_of_weight_zero_is_neither_computed_nor_built():
    terms = LossTerms({"l1": 1.0, "l2": 0.0, "perceptual": 0.0, "semantic": 0.0}, perceptual="lpips")
    assert terms.perceptual is None  # building it would need a download, which is not there
    assert set(terms(IMAGE, output())[1]) == {"l1"}


def test_a_quantizer_loss_of_weight_zero_is_reported_and_does_not_train():
    total, values = LossTerms({"l1": 1.0, "entropy": 0})(IMAGE, output(entropy=float("nan")))
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
        LossTerms({"l1": 1.0})(IMAGE, output(commitment=1.0))


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
        LossTerms({"l1": 0.0})(IMAGE, output())


def test_pixel_terms_need_a_pixel_decoder():
    with pytest.raises(RecipeError, match="does not decode to pixels"):
        LossTerms({"l1": 1.0})(IMAGE, Output())


def test_perceptual_and_semantic_terms_take_part():
    from vistok.backbones import TimmEncoder

    torch.manual_seed(0)
    teacher = TimmEncoder("tf_efficientnet_lite0", weights="efficientnet-lite0")
    terms = LossTerms(
        {"perceptual": 1.0, "semantic": 0.5}, perceptual="efficientnet-lite0", semantic=Semantic(teacher)
    )
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    features = torch.rand(1, 2, 2, teacher.dim, requires_grad=True)
    total, values = terms(image, Output(image=torch.zeros_like(image, requires_grad=True), features=features))
    torch.testing.assert_close(total.detach(), values["perceptual"] + 0.5 * values["semantic"])
    assert isinstance(terms.perceptual, Perceptual)
    assert not terms.state_dict()
    with pytest.raises(RecipeError, match="no feature head"):
        terms(image, Output(image=image))
