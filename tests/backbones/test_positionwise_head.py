import pytest
import torch

from vistok.backbones import PositionwiseHead


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("sequence", [False, True])
def test_each_position_is_predicted_from_its_own_vector(hidden, sequence):
    torch.manual_seed(0)
    head = PositionwiseHead(4, 6, hidden, sequence)
    vectors = torch.randn(2, 5, 4) if sequence else torch.randn(2, 3, 5, 4)
    features = head(vectors)
    assert features.shape == (*vectors.shape[:-1], 6) and head.topology == ("1d" if sequence else "2d")
    torch.testing.assert_close(features.flatten(0, -2)[3], head(vectors.flatten(0, -2)[3]))


def test_without_hidden_channels_it_is_linear():
    head = PositionwiseHead(4, 6)
    vectors = torch.randn(1, 2, 2, 4)
    torch.testing.assert_close(head(2 * vectors), 2 * head(vectors))
    assert sum(weight.numel() for weight in head.parameters()) == 4 * 6


def test_negative_hidden_channels_are_refused():
    with pytest.raises(ValueError, match="hidden is -1"):
        PositionwiseHead(4, 6, -1)
