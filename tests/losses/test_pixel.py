import torch

from vistok.losses import l1, l2


def test_l1_is_the_mean_absolute_difference():
    image, reconstruction = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[0.5, 0.5]]]])
    assert l1(image, reconstruction).item() == 1.0


def test_l2_is_the_mean_squared_difference():
    image, reconstruction = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[0.5, 0.5]]]])
    assert l2(image, reconstruction).item() == (0.25 + 2.25) / 2


def test_gradients_point_from_the_image_to_the_reconstruction():
    image = torch.zeros(2, 3, 4, 4)
    reconstruction = torch.full_like(image, 0.5, requires_grad=True)
    (l1(image, reconstruction) + l2(image, reconstruction)).backward()
    torch.testing.assert_close(reconstruction.grad, torch.full_like(image, (1 + 2 * 0.5) / image.numel()))


def test_half_precision_is_averaged_in_float32():
    image = torch.zeros(1, 3, 256, 256, dtype=torch.bfloat16)
    reconstruction = torch.full_like(image, 0.5)
    loss = l2(image, reconstruction)
    assert loss.dtype == torch.float32
    assert loss.item() == 0.25
