"""What every exported quantizer must do."""

import copy
import inspect

import pytest
import torch

import vistok.quantizers as quantizers
from vistok.quantizers import Continuous, MultiScale, Quantizer
from vistok.recorded import build
from vistok.tokenizer.saving import exported_classes

CONCRETE = sorted(
    (
        cls
        for cls in (getattr(quantizers, name) for name in quantizers.__all__)
        if inspect.isclass(cls) and issubclass(cls, Quantizer) and cls not in (Quantizer, Continuous)
    ),
    key=lambda cls: cls.__name__,
)
each = pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)


def shapes(quantizer):
    # scales exist on two-dimensional grids only, and only a square need not be said to decode
    return ((2, 4, 4), (1, 8, 8)) if isinstance(quantizer, MultiScale) else ((2, 3, 5), (1, 7), (4, 1, 1))


def positions(quantizer, shape):
    return (
        (shape[0], quantizer.schedule.num_tokens(shape[1:])) if isinstance(quantizer, MultiScale) else shape
    )


def latents(quantizer, shape=None):
    shape = shapes(quantizer)[0] if shape is None else shape
    return torch.randn(*shape, quantizer.dim_in, generator=torch.Generator().manual_seed(0))


@each
def test_shapes_types_and_ranges(cls):
    quantizer = cls.tiny().eval()
    for shape in shapes(quantizer):
        output = quantizer(latents(quantizer, shape))
        assert output.quantized.shape == (*shape, quantizer.dim)
        assert output.quantized.dtype == torch.float32
        if quantizer.codebook_size is None:
            assert output.indices is None
        else:
            expected = positions(quantizer, shape)
            expected = expected if quantizer.num_groups == 1 else (*expected, quantizer.num_groups)
            assert output.indices.shape == expected and output.indices.dtype == torch.int64
            assert int(output.indices.min()) >= 0 and int(output.indices.max()) < quantizer.codebook_size


@each
def test_decoding_the_indices_gives_the_quantized_vectors(cls):
    quantizer = cls.tiny().eval()
    output = quantizer(latents(quantizer))
    if output.indices is None:
        with pytest.raises(ValueError, match="continuous"):
            quantizer.decode(torch.zeros(1, 1, dtype=torch.int64))
    else:
        torch.testing.assert_close(quantizer.decode(output.indices), output.quantized, atol=1e-5, rtol=1e-5)


@each
def test_indices_outside_the_codebook_are_refused(cls):
    quantizer = cls.tiny().eval()
    if quantizer.codebook_size is None:
        pytest.skip("continuous")
    indices = quantizer(latents(quantizer)).indices
    with pytest.raises(ValueError, match="outside"):
        quantizer.decode(torch.full_like(indices, quantizer.codebook_size))
    with pytest.raises(ValueError, match="outside"):
        quantizer.decode(torch.full_like(indices, -1))


@each
def test_the_encoder_gets_a_finite_gradient(cls):
    torch.manual_seed(0)
    quantizer = cls.tiny().train()
    latent = latents(quantizer).requires_grad_()
    output = quantizer(latent)
    (output.quantized.square().sum() + sum(output.losses.values(), torch.zeros(()))).backward()
    assert latent.grad.isfinite().all() and latent.grad.abs().sum() > 0


@each
def test_losses_are_the_announced_ones_and_scalar(cls):
    quantizer = cls.tiny().train()
    losses = quantizer(latents(quantizer)).losses
    assert set(losses) == set(quantizer.loss_names)
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())


@each
def test_a_half_precision_trunk_gives_the_float32_indices(cls):
    quantizer = cls.tiny().eval()
    latent = latents(quantizer).bfloat16()
    plain = quantizer(latent.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(latent)
    assert inside.quantized.dtype == torch.float32
    torch.testing.assert_close(inside.quantized, plain.quantized, atol=0, rtol=0)
    if plain.indices is not None:
        assert torch.equal(inside.indices, plain.indices)


@each
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_values_never_become_an_index(cls, bad):
    quantizer = cls.tiny().eval()
    if quantizer.codebook_size is None:
        pytest.skip("continuous")
    latent = latents(quantizer)
    latent[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"NaN|finite|Inf"):
        quantizer(latent)


@each
def test_another_number_of_channels_is_refused_by_number(cls):
    quantizer = cls.tiny()
    with pytest.raises(ValueError, match=str(quantizer.dim_in + 1)):
        quantizer(torch.zeros(1, 2, quantizer.dim_in + 1))


@each
def test_config_round_trip_builds_an_equal_quantizer(cls):
    quantizer = cls.tiny().eval()
    again = build(quantizer.to_config(), exported_classes()).eval()
    again.load_state_dict(quantizer.state_dict())
    latent = latents(quantizer)
    torch.testing.assert_close(again(latent).quantized, quantizer(latent).quantized, atol=0, rtol=0)


@each
def test_a_copy_is_independent_and_equal(cls):
    quantizer = cls.tiny().eval()
    again = copy.deepcopy(quantizer)
    latent = latents(quantizer)
    torch.testing.assert_close(again(latent).quantized, quantizer(latent).quantized, atol=0, rtol=0)
    assert again.to_config() == quantizer.to_config()


@each
def test_the_stream_describes_it(cls):
    quantizer = cls.tiny()
    stream = quantizer.stream()
    assert (stream.codebook_size, stream.dim, stream.num_groups) == (
        quantizer.codebook_size,
        quantizer.dim,
        quantizer.num_groups,
    )


@each
def test_evaluation_leaves_the_state_alone(cls):
    quantizer = cls.tiny().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents(quantizer))
    quantizer.update()
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@each
def test_update_after_a_training_step_keeps_everything_finite(cls):
    quantizer = cls.tiny().train()
    quantizer.prepare(latents(quantizer))
    for _ in range(3):
        quantizer(latents(quantizer))
        quantizer.update()
    assert all(
        value.isfinite().all() for value in quantizer.state_dict().values() if value.is_floating_point()
    )
