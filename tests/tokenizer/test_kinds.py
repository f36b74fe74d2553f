"""What every tokenizer keeps, whatever its topology and however many streams it has."""

import pytest
import torch

import vistok
from tests.shards.conftest import Images
from tests.tokenizer.kinds import KINDS, SIDE, images, make
from vistok import TokenizerSpec, shards
from vistok.shards.collate import collate, to_encoded

each = pytest.mark.parametrize("kind", KINDS)


@each
def test_tokens_are_as_the_spec_says(kind):
    tokenizer = make(kind)
    encoded, spec = tokenizer.encode(images()), tokenizer.spec
    assert list(encoded) == [stream.name for stream in spec.streams]
    for stream in spec.streams:
        tokens = encoded[stream.name]
        assert tokens.grid == stream.grid(SIDE, SIDE)
        if stream.codebook_size is None:
            assert tokens.latents.shape[2] == stream.dim and tokens.indices is None
        else:
            assert tokens.indices.dtype == torch.int64 and tokens.indices.shape[2] == stream.num_groups
            assert tokens.indices.min() >= 0 and tokens.indices.max() < stream.codebook_size
        if stream.max_tokens:
            assert tokens.values.shape[1] <= stream.max_tokens


@each
def test_save_and_load_give_equal_tokens_pictures_and_spec(kind, tmp_path):
    tokenizer, x = make(kind), images()
    tokenizer.save(tmp_path / "t")
    again = vistok.load(tmp_path / "t")
    assert again.spec == tokenizer.spec
    assert TokenizerSpec.from_json(tokenizer.spec.to_json()) == tokenizer.spec
    assert again.state_dict().keys() == tokenizer.state_dict().keys()
    one, other = tokenizer.encode(x), again.encode(x)
    assert all(torch.equal(one[name].values, other[name].values) for name in one)
    if tokenizer.decoder is not None:
        assert torch.equal(tokenizer.decode(one), again.decode(other))
    if tokenizer.spec.features.semantic:
        assert torch.equal(tokenizer.semantic(x), again.semantic(x))


@each
def test_decode_gives_pictures_of_the_size_of_the_images(kind):
    tokenizer, x = make(kind), images()
    if tokenizer.decoder is None:
        with pytest.raises(vistok.TokenizerError, match="no pixel decoder"):
            tokenizer.decode(tokenizer.encode(x))
        return
    pictures = tokenizer.decode(tokenizer.encode(x))
    assert pictures.shape == x.shape and pictures.abs().max() <= 1


@each
def test_embed_gives_what_the_quantizer_decodes(kind):
    tokenizer = make(kind)
    encoded = tokenizer.encode(images())
    for stream in tokenizer.spec.streams:
        values = encoded[stream.name].values
        vectors = tokenizer.embed(encoded, stream=stream.name)
        assert vectors.shape == (*values.shape[:2], stream.dim)
        assert torch.equal(tokenizer.embed(values, stream=stream.name), vectors)
        depthwise = tokenizer.embed(encoded, stream=stream.name, depthwise=True)
        assert depthwise.shape[:3] == (*values.shape[:2], stream.num_groups)


@each
def test_a_training_step_reaches_all_weights_and_names_all_losses(kind):
    tokenizer, x = make(kind).train(), images()
    tokenizer.prepare(x)
    output = tokenizer(x)
    assert {*output.losses} == {*tokenizer.loss_names}
    total = sum(output.losses.values(), torch.zeros(()))
    for made in (output.image, output.features):
        total = total + (made.float().square().mean() if made is not None else 0)
    total.backward()
    tokenizer.update()
    assert torch.isfinite(total)
    without = {n for n, p in tokenizer.named_parameters() if p.requires_grad and p.grad is None}
    assert not without


@each
def test_evaluation_encodes_the_same_in_training_mode_and_one_by_one(kind):
    tokenizer, x = make(kind), images()
    expected = tokenizer.encode(x)
    again = tokenizer.train().encode(x)
    assert all(torch.equal(expected[name].values, again[name].values) for name in expected)
    for place in range(len(x)):
        alone = tokenizer.encode(x[place : place + 1])
        length = alone.main.values.shape[1]
        torch.testing.assert_close(
            alone.main.values[0], expected.main.values[place, :length], atol=1e-5, rtol=1e-4
        )


@each
@pytest.mark.parametrize("container", ["arrow", "arrow-packed"])
def test_shards_hold_what_encode_gives(kind, container, tmp_path):
    tokenizer = make(kind)
    if container == "arrow-packed" and tokenizer.spec.kind != "discrete":
        container = "tar"
    keys = [f"image_{number}" for number in range(5)]
    data = Images(keys, size=SIDE)
    shards.encode(tokenizer, data, tmp_path / "out", batch_size=5, progress=False, container=container)
    dataset = shards.open(tmp_path / "out")
    assert dataset.spec == tokenizer.spec
    batch = collate([dataset[i] for i in range(5)])
    read = to_encoded(batch, dataset.spec)
    with torch.inference_mode():
        direct = tokenizer.encode(torch.stack([data[i]["image"] for i in range(5)]))
    assert list(read) == list(direct) and read.size == direct.size
    for name in direct:
        assert torch.equal(read[name].values, direct[name].values)
        assert read[name].grid == direct[name].grid
    if direct.lengths is not None and len(set(direct.lengths.tolist())) > 1:
        assert torch.equal(read.lengths, direct.lengths)
    if tokenizer.decoder is not None:
        with torch.inference_mode():
            assert torch.equal(tokenizer.decode(read), tokenizer.decode(direct))
        summary = shards.decode(tokenizer, dataset, tmp_path / "png", batch_size=5, progress=False)
        assert summary.num_images == 5


@pytest.mark.parametrize(
    "kind", ["dual", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sequence_causal", "ragged"))]
)
def test_a_compiled_tokenizer_gives_the_same(kind):
    tokenizer, x = make(kind), images()
    torch._dynamo.reset()
    output, again = tokenizer(x), torch.compile(tokenizer, backend="eager")(x)
    torch.testing.assert_close(again.image, output.image)
    assert torch.equal(again.indices, output.indices)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(("proxy", "pooled"))])
def test_training_brings_pictures_nearer_to_the_images(kind):
    tokenizer, x = make(kind).train(), images()
    torch.manual_seed(1)
    tokenizer.prepare(x)
    optimizer = torch.optim.Adam([p for p in tokenizer.parameters() if p.requires_grad], lr=3e-3)
    errors = []
    for _ in range(25):
        output = tokenizer(x)
        error = (output.image - x).square().mean()
        optimizer.zero_grad()
        (error + 0.25 * sum(output.losses.values(), torch.zeros(()))).backward()
        optimizer.step()
        tokenizer.update()
        errors.append(float(error.detach()))
    assert sum(errors[-3:]) < 0.8 * sum(errors[:3]), errors
