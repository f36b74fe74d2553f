import torch

from vistok.quantizers.estimators import rotation_trick, straight_through


def test_both_give_the_code_itself_bit_for_bit():
    latent, code = torch.randn(1000, 8, requires_grad=True), 100 * torch.randn(1000, 8)
    assert torch.equal(straight_through(latent, code), code)
    assert torch.equal(rotation_trick(latent, code), code)


def test_a_latent_without_direction_or_against_the_code_gets_the_plain_gradient():
    code = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    latent = torch.tensor([[0.0, 0.0], [1e-9, -1e-9], [-2.0, -4.0]], requires_grad=True)
    rotation_trick(latent, code).sum().backward()
    assert torch.equal(latent.grad, torch.ones(3, 2))


def test_the_rotation_keeps_the_length_of_the_gradient_up_to_the_scale():
    latent, code = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8)
    weight = torch.randn(50, 8)
    (rotation_trick(latent, code) * weight).sum().backward()
    scale = code.norm(dim=-1) / latent.detach().norm(dim=-1)
    torch.testing.assert_close(latent.grad.norm(dim=-1), scale * weight.norm(dim=-1))
