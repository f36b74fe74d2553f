import pytest
import torch

from vistok import ImageError
from vistok.backbones import ConvEncoder, QueryEncoder, ViTEncoder


def make(order="raster", **options):
    torch.manual_seed(0)
    trunk = ViTEncoder(8, 16, depth=1, num_heads=2)
    return QueryEncoder(trunk, 5, width=24, depth=2, num_heads=2, order=order, **options).eval()


def images(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_any_image_gives_the_same_number_of_latents():
    encoder = make()
    assert encoder(images(2, 3, 32, 32)).shape == (2, 5, 24)
    assert encoder(images(2, 3, 16, 40)).shape == (2, 5, 24)
    assert (encoder.topology, encoder.num_tokens, encoder.factor, encoder.multiple_of) == ("1d", 5, 8, 8)
    with pytest.raises(ImageError, match="multiples of 8"):
        encoder(images(2, 3, 30, 32))


@pytest.mark.parametrize(
    ("order", "moved"), [("raster", range(5)), ("causal", range(2, 5)), ("reversed", range(3))]
)
def test_a_query_reaches_only_those_that_the_order_permits(order, moved):
    encoder, x = make(order), images(1, 3, 32, 32)
    before = encoder(x)
    with torch.no_grad():
        encoder.queries[:, 2, :12] += 1
    changed = (encoder(x) - before).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(moved)


def test_every_query_reads_the_image_in_every_order():
    for order in ("raster", "causal", "reversed"):
        encoder, x = make(order), images(1, 3, 32, 32).requires_grad_()
        for latent in encoder(x)[0]:
            (gradient,) = torch.autograd.grad(latent.square().sum(), x, retain_graph=True)
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_tokens": 0}, "at least 1"),
        ({"order": "random"}, "raster, causal, reversed"),
        ({"width": 25}, "multiple of the 2 heads"),
        ({"trunk": make()}, "gives a sequence"),
    ],
)
def test_arguments_out_of_their_range_are_refused(change, words):
    given = {
        "trunk": ConvEncoder(8, 8, (1,), 1, patch=8),
        "num_tokens": 4,
        "width": 24,
        "depth": 1,
        "num_heads": 2,
    }
    with pytest.raises(ValueError, match=words):
        QueryEncoder(**{**given, **change})
