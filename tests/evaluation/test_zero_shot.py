"""Retrieval and classification without training for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.losses.towers import Letters
from vistok import Tokenizer
from vistok.backbones.base import Encoder, FeatureHead
from vistok.errors import DataError, RecipeError, TokenizerError
from vistok.evaluation import classification, retrieval
from vistok.quantizers import Identity

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}


class Colour(Encoder):
    """Mean colours of 4 x 4 patches, plus a constant so that none is 0."""

    dim, factor = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.weight * nn.functional.avg_pool2d(image, 4).movedim(1, -1)


class Same(FeatureHead):
    """Features are the quantized vectors."""

    dim = dim_out = 3

    def forward(self, quantized: Tensor) -> Tensor:
        return quantized


class Words(nn.Module):
    """A text is the sum of the colours that it names."""

    dim = 3

    def forward(self, texts: list[str]) -> Tensor:
        return torch.stack(
            [
                sum((torch.tensor(v) for name, v in COLOURS.items() if name in text), torch.zeros(3))
                for text in texts
            ]
        )


def tokenizer() -> Tokenizer:
    return Tokenizer(Colour(), Identity(3), feature_head=Same()).eval()


def items(*colours: str, **fields) -> list[dict]:
    """One even image a colour, of a size of its own."""
    made = []
    for number, colour in enumerate(colours):
        side = 8 + 4 * (number % 2)
        image = torch.tensor(COLOURS[colour]).view(3, 1, 1).expand(3, side, side)
        made.append(
            {"image": image, "key": f"{number}", **{name: values[number] for name, values in fields.items()}}
        )
    return made


def test_recall_counts_images_whose_own_caption_is_nearest():
    data = items(
        "red", "green", "blue", "red", caption=["a red hat", "something green", "deep blue", "nothing"]
    )
    metric = retrieval(tokenizer(), Words(), data, batch_size=2)
    assert metric.value == 0.75
    assert metric.protocol == "retrieval_r1/v1:whole:native:image-to-text:cosine:captions=4:n=4"
    assert metric.note == "chance 0.25"


def test_equal_captions_are_one_candidate():
    data = items("red", "red", "blue", caption=["red", "red", "blue"])
    metric = retrieval(tokenizer(), Words(), data)
    assert metric.value == 1.0 and metric.note == "chance 0.5" and "captions=2:n=3" in metric.protocol


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], ["red", "green", "blue", "green"]])
def test_accuracy_counts_images_whose_class_is_nearest(labels):
    data = items("red", "green", "blue", "red", label=labels)
    metric = classification(tokenizer(), Words(), data, list(COLOURS), templates=("a {} thing", "{}"))
    assert metric.value == 0.75
    assert metric.protocol.startswith("zero_shot/v1:whole:native:top1:cosine:classes=3:templates=2:n=4")


def test_the_order_of_batches_does_not_matter():
    data = items("red", "green", "blue", "green", "red", caption=["red", "green", "blue", "blue", "green"])
    values = {retrieval(tokenizer(), Words(), data, batch_size=size, size=8).value for size in (1, 2, 5)}
    assert values == {0.6}


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match="image '1' has no caption"):
        retrieval(tokenizer(), Words(), items("red", "blue", caption=["red", None]))
    with pytest.raises(DataError, match="no images"):
        retrieval(tokenizer(), Words(), [])
    with pytest.raises(DataError, match="label 'pink' is none of the 3 classes"):
        classification(tokenizer(), Words(), items("red", label=["pink"]), list(COLOURS))
    with pytest.raises(RecipeError, match="at least one class"):
        classification(tokenizer(), Words(), items("red", label=[0]), [])
    with pytest.raises(RecipeError, match="have 3 channels and the text tower's 4"):
        retrieval(tokenizer(), Letters(4), items("red", caption=["red"]))
    bare = Tokenizer(Colour(), Identity(3)).eval()
    with pytest.raises(TokenizerError, match="no semantic branch"):
        retrieval(bare, Words(), items("red", caption=["red"]))
