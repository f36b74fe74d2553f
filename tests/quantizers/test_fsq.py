import pytest
import torch

from vistok.quantizers import FSQ


def spread(dim, size=20000):
    return 3 * torch.randn(1, size, dim, generator=torch.Generator().manual_seed(0))


OPTIONS = [
    {},
    {"bound": "sigmoid"},
    {"preserve_symmetry": True},
    {"bound": "sigmoid", "preserve_symmetry": True},
    {"convention": "public"},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each
@pytest.mark.parametrize("levels", [(8, 8), (7, 5), (8, 5), (3, 16), (2, 3)])
def test_bfloat16_latents_reach_every_code(options, levels):
    quantizer = FSQ(levels, **options)
    latent = spread(2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        indices = quantizer(latent).indices
    assert indices.unique().numel() == quantizer.codebook_size


@each
def test_indices_are_exact_where_float32_would_not_be(options):
    quantizer = FSQ([8] * 20, **options)
    latent = spread(20, 2000)
    output = quantizer(latent)
    assert int(output.indices.max()) > 2**58
    torch.testing.assert_close(quantizer.decode(output.indices), output.quantized, atol=0, rtol=0)
    digits = (output.quantized + 1) * 3.5 if options.get("preserve_symmetry") else output.quantized * 4 + 4
    expected = [sum(d * 8**at for at, d in enumerate(row)) for row in digits[0].round().long().tolist()]
    assert output.indices[0].tolist() == expected


@each
def test_the_gradient_is_that_of_the_bound(options):
    quantizer = FSQ((8, 5), **options)
    latent = torch.randn(1, 200, 2, requires_grad=True)
    quantizer(latent).quantized.sum().backward()
    slope = 0.8 if options.get("bound") == "sigmoid" else 1.0
    symmetric = options.get("preserve_symmetry", False)
    inner = slope * latent.detach()
    if not symmetric:
        # offset and reach of the even channel
        near = 1.001 if options.get("convention") == "public" else 0.999
        half = torch.tensor([3.5, 2.0]) * near
        offset = torch.tensor([0.5, 0.0]) / half
        inner = inner + (offset.atanh() if options.get("convention") == "public" else offset.tan())
    expected = slope * (1 - inner.tanh() ** 2)
    if not symmetric:
        expected = expected * half / torch.tensor([4.0, 2.0])
    torch.testing.assert_close(latent.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_sigmoid_bound_is_twice_a_sigmoid_less_one():
    latent = spread(1, 3000)
    output = FSQ([17], bound="sigmoid", preserve_symmetry=True)(latent)
    expected = ((2 * torch.sigmoid(1.6 * latent) - 1) * 8).round() / 8
    torch.testing.assert_close(output.quantized, expected)


def test_the_sigmoid_bound_uses_17_levels_more_evenly_than_tanh_on_normal_latents():
    latent = torch.randn(1, 50000, 1, generator=torch.Generator().manual_seed(0))

    def least_and_most(bound):
        counts = (
            FSQ([17], bound=bound, preserve_symmetry=True)(latent).indices.flatten().bincount(minlength=17)
        )
        return counts.max() / counts.float().mean()

    assert least_and_most("sigmoid") < least_and_most("tanh")


@pytest.mark.parametrize("num_levels", [2, 3, 4, 5, 8, 17])
def test_symmetric_levels_mirror_about_zero(num_levels):
    quantizer = FSQ([num_levels], preserve_symmetry=True)
    values = quantizer.decode(torch.arange(num_levels)).flatten()
    torch.testing.assert_close(values, -values.flip(0), atol=0, rtol=0)
    torch.testing.assert_close(values, torch.linspace(-1, 1, num_levels))
    latent = spread(1, 500)
    torch.testing.assert_close(quantizer(-latent).quantized, -quantizer(latent).quantized)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 6, 5), (7, 5, 5, 5, 5)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_vector_quantize_pytorch_gives_the_same_indices_and_values(levels, symmetric):
    from vector_quantize_pytorch import FSQ as Peer

    latent = spread(len(levels), 5000)
    codes, indices = Peer(list(levels), preserve_symmetry=symmetric)(latent)
    ours = FSQ(levels, preserve_symmetry=symmetric, convention="paper" if symmetric else "public")
    output = ours(latent)
    assert torch.equal(output.indices, indices.long())
    torch.testing.assert_close(output.quantized, codes)


def test_the_conventions_name_the_same_codes():
    paper, public = FSQ((8, 5)), FSQ((8, 5), convention="public")
    everything = torch.arange(40)
    assert torch.equal(paper.decode(everything), public.decode(everything))
    latent = spread(2, 5000)
    same = paper(latent).indices == public(latent).indices
    assert 0.98 < same.float().mean() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": (1, 3)}, "at least 2"),
        ({"levels": [8] * 21}, "2\\^62"),
        ({"levels": (8,), "bound": "clamp"}, "bound"),
        ({"levels": (8,), "convention": "mine"}, "convention"),
        ({"levels": (8,), "convention": "public", "preserve_symmetry": True}, "preserve_symmetry"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FSQ(**arguments)


@each
def test_compiled_and_eager_give_equal_indices(options):
    quantizer = FSQ((8, 5), **options).eval()
    latent = spread(2, 300)
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(latent).indices, quantizer(latent).indices)
