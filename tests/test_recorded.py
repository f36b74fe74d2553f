import copy
import pickle

import pytest
from torch import nn

from vistok.errors import TokenizerError
from vistok.recorded import Recorded, build
from vistok.spec import ImagePolicy


class Part(Recorded, nn.Module):
    not_saved = frozenset({"weights"})

    def __init__(self, width: int, levels=(2, 3), inner=None, weights=None, policy=None):
        super().__init__()
        self.width, self.levels, self.inner, self.policy = width, levels, inner, policy


CLASSES = {"Part": Part, "ImagePolicy": ImagePolicy}


def test_arguments_come_back_nested_with_defaults_and_without_what_is_not_saved():
    part = Part(4, inner=Part(2, weights="/secret/path"), policy=ImagePolicy(size=(8, 8)))
    config = part.to_config()
    assert config["args"]["inner"] == {
        "class": "Part",
        "args": {"width": 2, "levels": [2, 3], "inner": None, "policy": None},
    }
    again = build(config, CLASSES)
    assert (again.width, again.inner.width, again.policy) == (4, 2, ImagePolicy(size=(8, 8)))


def test_copies_and_pickles_keep_the_record():
    part = Part(4, levels=(5,))
    for again in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert again.to_config() == part.to_config()


def test_only_known_classes_are_built():
    for name in ("os.system", "Recorded", None, 3):
        with pytest.raises(TokenizerError, match="does not export"):
            build({"class": name, "args": {}}, CLASSES)


def test_wrong_arguments_are_one_line():
    with pytest.raises(TokenizerError, match="Part cannot be built"):
        build({"class": "Part", "args": {"height": 3}}, CLASSES)


def test_arguments_that_are_not_data_cannot_be_saved():
    with pytest.raises(TokenizerError, match="width=function"):
        Part(lambda: 3).to_config()


def test_a_wrong_call_fails_as_usual():
    with pytest.raises(TypeError, match="width"):
        Part()
