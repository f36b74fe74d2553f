import numpy as np
import torch

from vistok.shards.pixels import as_bytes_if_exact, to_floats
from vistok.tokenizer.preprocess import to_tensor


def test_every_8_bit_value_survives_to_the_last_bit():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    image = to_tensor(values)
    packed = as_bytes_if_exact(image)
    assert packed.dtype == torch.uint8
    assert torch.equal(to_floats(packed), image)


def test_images_that_were_never_8_bit_stay_as_they_are():
    image = torch.rand(3, 8, 8) * 2 - 1
    assert as_bytes_if_exact(image) is image
    almost = to_tensor(np.full((8, 8, 3), 77, np.uint8))
    almost[0, 0, 0] = almost[0, 0, 0].nextafter(torch.tensor(1.0))
    assert as_bytes_if_exact(almost) is almost
    beyond = torch.full((3, 4, 4), 1.001)
    assert as_bytes_if_exact(beyond) is beyond
