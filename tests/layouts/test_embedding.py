import pytest
import torch
import torch.nn.functional as F

from tests.layouts.systems import discrete, with_stream
from tests.layouts.tokenizers import small_tokenizer
from vistok.errors import LayoutError
from vistok.layouts import Layout, TokenEmbedder, codebook_vectors, grown_rows
from vistok.layouts.embedding import projected
from vistok.quantizers import VQ, Gaussian, MultiScale, Product, Residual


def residual() -> Residual:
    return Residual(VQ(codebook_size=16, dim=4), num_stages=3)


def product() -> Product:
    return Product(VQ(codebook_size=16, dim=4), num_groups=2)


@pytest.mark.parametrize("quantizer", [VQ(codebook_size=32, dim=4), residual(), product(), MultiScale.tiny()])
def test_the_vector_of_every_code_is_what_embed_gives(quantizer):
    tokenizer = small_tokenizer(quantizer)
    stream = tokenizer.spec.main
    vectors = codebook_vectors(tokenizer)
    assert vectors.shape[:2] == (stream.num_groups, stream.codebook_size)
    indices = torch.randint(stream.codebook_size, (1, 5, stream.num_groups))
    expected = tokenizer.embed(indices, depthwise=True)[0]
    for group in range(stream.num_groups):
        assert torch.allclose(vectors[group, indices[0, :, group]], expected[:, group])


def test_continuous_tokenizers_have_no_codes_to_list():
    with pytest.raises(LayoutError, match="is continuous"):
        codebook_vectors(small_tokenizer(Gaussian(dim=4)))


def test_a_projection_keeps_angles():
    vectors = torch.randn(50, 6)
    wide = projected(vectors, 40)
    centred = vectors - vectors.mean(0)
    same = F.cosine_similarity(centred[:, None], centred[None], dim=-1)
    assert torch.allclose(F.cosine_similarity(wide[:, None], wide[None], dim=-1), same, atol=1e-5)
    assert float(wide.square().mean()) == pytest.approx(1, abs=1e-5)


def test_grown_rows_keep_the_text_and_give_codes_its_mean_and_spread():
    torch.manual_seed(0)
    layout = Layout("liquid", discrete(), 20)
    text = torch.randn(24, 16) * 0.3 + 1
    vectors = torch.randn(1, 32, 4)
    rows = grown_rows(text, layout, vectors)
    assert rows.shape == (layout.vocabulary_size, 16) and torch.equal(rows[:20], text[:20])
    codes = rows[layout.codes().all_ids()[0]]
    mean = text[:20].mean(0)
    assert torch.allclose(codes.mean(0), mean, atol=1e-5)
    spread = float((text[:20] - mean).square().mean().sqrt())
    assert float((codes - mean).square().mean().sqrt()) == pytest.approx(spread, rel=1e-4)
    centred = vectors[0] - vectors[0].mean(0)
    near = F.cosine_similarity(centred[:, None], centred[None], dim=-1)
    assert torch.allclose(
        F.cosine_similarity((codes - mean)[:, None], (codes - mean)[None], dim=-1), near, atol=1e-4
    )
    assert torch.allclose(rows[layout.specials["boi"]], mean)


def test_codes_that_the_text_vocabulary_knows_keep_their_rows():
    names = {
        "<boi>": 0,
        "<eoi>": 1,
        **{f"<img_{n:05d}>": n + 2 for n in range(32)},
        "<img>": 34,
        "</img>": 35,
    }
    layout = Layout("seed", with_stream(topology="1d", factor=0, max_tokens=32), names)
    text = torch.randn(36, 8)
    assert torch.equal(grown_rows(text, layout, torch.randn(1, 32, 4)), text)


def test_groups_that_share_ids_meet_in_one_row():
    layout = Layout("vila_u", with_stream(codebook_size=16, num_groups=4, combinator="residual"), 10)
    rows = grown_rows(torch.randn(10, 8), layout, torch.randn(4, 16, 3))
    assert rows.shape == (28, 8) and rows.isfinite().all()
    with pytest.raises(LayoutError, match="vectors are"):
        grown_rows(torch.randn(10, 8), layout, torch.randn(4, 15, 3))
    with pytest.raises(LayoutError, match="9 rows"):
        grown_rows(torch.randn(9, 8), layout, torch.randn(4, 16, 3))


@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_are_maps_of_the_vectors(shared):
    quantizer = residual() if shared else product()
    tokenizer = small_tokenizer(quantizer)
    embedder = TokenEmbedder(codebook_vectors(tokenizer), 32, shared=shared)
    indices = tokenizer.encode(torch.rand(2, 3, 32, 32) * 2 - 1).indices
    embedded = embedder(indices)
    assert embedded.shape == (2, 16, 32)
    # of residual stages the sum of vectors is mapped, of product groups the vectors side by side
    assert torch.allclose(embedder.project(tokenizer.embed(indices)), embedded, atol=1e-5)
    depthwise = embedder.depthwise(indices)
    assert torch.allclose(depthwise[:, :, -1], embedded, atol=1e-6)
    first = embedder.table()[0][indices[..., 0]]
    assert torch.allclose(depthwise[:, :, 0], first, atol=1e-6)
    with pytest.raises(LayoutError, match=r"is \(B, N, "):
        embedder(indices[..., :1])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda e: TokenEmbedder(torch.zeros(32, 4), 8), r"are \(S, K, d\), they are \(32, 4\)"),
        (lambda e: TokenEmbedder(torch.zeros(1, 32, 4), 0), "width 0 must be at least 1"),
        (lambda e: e(torch.zeros(1, 2, 1)), "takes integer indices"),
        (lambda e: e(torch.full((1, 2, 1), 32)), r"lie in \[32, 32\], outside \[0, 32\)"),
        (lambda e: e(torch.full((1, 2, 1), -1)), "outside"),
        (lambda e: e.project(torch.zeros(1, 2, 5)), r"are \(B, N, 4\), they are \(1, 2, 5\)"),
        (
            lambda e: grown_rows(torch.zeros(9), Layout("liquid", discrete(), 9), torch.zeros(1, 32, 4)),
            "V0, C",
        ),
    ],
)
def test_what_cannot_be_embedded_is_told_in_one_line(make, told):
    with pytest.raises(LayoutError, match=told) as raised:
        make(TokenEmbedder(torch.randn(1, 32, 4), 8))
    assert "\n" not in str(raised.value)


def test_sums_of_scales_are_mapped_for_a_next_scale_model():
    tokenizer = small_tokenizer(MultiScale.tiny())
    encoded = tokenizer.encode(torch.rand(1, 3, 32, 32) * 2 - 1)
    embedder = TokenEmbedder(codebook_vectors(tokenizer), 16)
    assert embedder.project(tokenizer.embed(encoded, cumulative=True)).shape == (1, 21, 16)


def test_embeddings_start_as_small_as_those_of_language_models():
    embedder = TokenEmbedder(torch.randn(1, 512, 8) * 7, 64)
    assert float(embedder.table().detach().square().mean().sqrt()) == pytest.approx(0.02, rel=0.1)
