import hashlib

import numpy as np
import pytest

from vistok.data import Procedural
from vistok.errors import DataError


def test_pixels_are_the_same_bits_on_every_machine():
    digest = hashlib.sha256(b"".join(Procedural(8, 48).read(i).tobytes() for i in range(8))).hexdigest()
    assert digest == "e47fb8a9d57abed92f488bbe7416552c61993554e67a3091023bd25c94c60f7f"


def test_an_image_depends_on_seed_and_index_alone():
    assert Procedural(2, 32).read(1).tobytes() == Procedural(9, 32).read(1).tobytes()
    assert Procedural(2, 32).read(0).tobytes() != Procedural(2, 32).read(1).tobytes()
    assert Procedural(1, 32, seed=1).read(0).tobytes() != Procedural(1, 32, seed=1 + 2**32).read(0).tobytes()


def test_images_have_detail_and_the_size_asked_for():
    dataset = Procedural(5, (24, 40))
    for index in range(5):
        image = np.asarray(dataset.read(index))
        assert image.shape == (24, 40, 3) and image.std() > 5


@pytest.mark.parametrize("arguments", [{"num": 0}, {"num": 1, "size": 0}, {"num": 1, "seed": -1}])
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(DataError, match="at least 1"):
        Procedural(**arguments)
