import pytest
import torch

from vistok.backbones.rectified_flow import flow_errors, integrate, waves


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4, 5)])
def test_the_true_velocity_has_no_error_and_leads_to_the_data(shape):
    target, noise = torch.randn(shape), torch.randn(shape)

    def velocity(there, time):
        return (target - there) / (1 - time.view(-1, *[1] * (len(shape) - 1)))

    assert float(flow_errors(velocity, target, noise, torch.tensor([0.1, 0.7])).max()) < 1e-9
    heard = []
    assert torch.allclose(integrate(velocity, noise, 5, heard.append), target, atol=1e-4)
    assert heard == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_each_row_has_its_own_error_in_float32():
    data, noise = torch.ones(2, 4, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.bfloat16)
    wrong = torch.tensor([[1.0], [3.0]], dtype=torch.bfloat16)
    errors = flow_errors(lambda there, time: wrong.expand(2, 4), data, noise, torch.tensor([0.2, 0.9]))
    assert errors.dtype == torch.float32 and errors.tolist() == [0.0, 4.0]


def test_times_that_differ_a_little_have_other_waves():
    near = waves(torch.tensor([0.5, 0.501]), 64)
    assert near.shape == (2, 128) and float((near[0] - near[1]).abs().max()) > 0.5
