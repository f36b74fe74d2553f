"""Latents of a dataset, normalised."""

from __future__ import annotations

import pytest
import torch

from tests.training.parts import make_tokenizer
from vistok.data import Procedural
from vistok.errors import DataError, TokenizerError
from vistok.evaluation import LatentStatistics, normalise
from vistok.quantizers import FSQ, Gaussian
from vistok.tokenizer import StreamTokens

DATA = Procedural(7, 16)
AXES = {"all": (0, 1, 2), "channel": (0, 1), "element": (0,)}


@pytest.mark.parametrize("per", AXES)
@pytest.mark.parametrize("batch_size", [2, 7])
def test_latents_have_mean_zero_and_deviation_one_afterwards(per, batch_size):
    tokenizer = make_tokenizer(Gaussian(4)).eval()
    normalise(tokenizer, DATA, per, batch_size=batch_size, progress=False)
    latents = tokenizer.encode(torch.stack([DATA[i]["image"] for i in range(7)])).latents.double()
    mean, deviation = latents.mean(AXES[per]), latents.std(AXES[per], correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-3, rtol=0)
    assert tokenizer.provenance["latent_statistics"] == {"images": 7, "per": per}
    assert tokenizer.spec.latents.grid == ((8, 8) if per == "element" else ())


def test_measuring_twice_gives_the_same():
    tokenizer = make_tokenizer(Gaussian(4)).eval()
    first = normalise(tokenizer, DATA, "element", progress=False).shift_and_scale()
    second = normalise(tokenizer, DATA, "element", progress=False).shift_and_scale()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def encoded(latents: torch.Tensor, grid: tuple[int, ...]) -> StreamTokens:
    return StreamTokens(None, latents, grid)


def test_what_pads_a_sequence_does_not_count():
    statistics = LatentStatistics("channel")
    latents = torch.tensor([[[1.0], [9.0]], [[2.0], [3.0]]])
    statistics.update(encoded(latents, (2,)), lengths=torch.tensor([1, 2]))
    assert statistics.shift_and_scale()[0].tolist() == [2.0] and statistics.num_images == 2
    with pytest.raises(DataError, match="varying length"):
        LatentStatistics("element").update(encoded(latents, (2,)), lengths=torch.tensor([1, 2]))


def test_what_is_constant_is_shifted_not_scaled():
    statistics = LatentStatistics("channel")
    statistics.update(encoded(torch.tensor([[[1.0, 3.0], [1.0, 5.0]]]), (1, 2)))
    shift, scale = statistics.shift_and_scale()
    assert shift.tolist() == [1.0, 4.0] and scale.tolist() == [1.0, 1.0]


def test_elements_of_two_grids_have_no_common_statistics():
    statistics = LatentStatistics("element")
    statistics.update(encoded(torch.zeros(1, 2, 3), (1, 2)))
    with pytest.raises(DataError, match=r"\(1, 2\) and \(2, 1\).*set --size"):
        statistics.update(encoded(torch.zeros(1, 2, 3), (2, 1)))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(TokenizerError, match="is discrete"):
        normalise(make_tokenizer(FSQ((4, 3))), DATA)
    with pytest.raises(DataError, match="no image was seen"):
        LatentStatistics().shift_and_scale()
    with pytest.raises(ValueError, match="choose one of all, channel, element"):
        LatentStatistics("pixel")
