import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import vistok
from vistok import ImageError, TokenizerError, TokenizerSpec
from vistok.backbones import ConvDecoder, ConvEncoder, FeatureDecoder, FlowDecoder, Linear
from vistok.quantizers import FSQ, VQ, External, Gaussian, Identity, MovingAverage, Residual
from vistok.tokenizer import Tokenizer

QUANTIZERS = {
    "vq": lambda: VQ(32, 4),
    "fsq": lambda: FSQ((8, 5, 5)),
    "residual": lambda: External("ResidualVQ", 4, {"codebook_size": 16, "num_quantizers": 2}),
    "gaussian": lambda: Gaussian(4),
    "identity": lambda: Identity(4),
}


def make(kind="vq", semantic=False, decoder=True):
    torch.manual_seed(0)
    quantizer = QUANTIZERS[kind]() if isinstance(kind, str) else kind
    return Tokenizer(
        ConvEncoder(8, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4),
        quantizer,
        ConvDecoder(8, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4) if decoder else None,
        project_in=Linear(8, quantizer.dim_in),
        project_out=Linear(quantizer.dim, 8),
        feature_head=FeatureDecoder(8, 12, width=16, depth=1, num_heads=2) if semantic else None,
        name="tiny",
    ).eval()


def images(height=32, width=48):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


each = pytest.mark.parametrize("kind", QUANTIZERS)


@each
def test_encode_decode_embed_have_the_promised_shapes(kind):
    tokenizer = make(kind)
    x = images()
    encoded = tokenizer.encode(x)
    groups = tokenizer.spec.main.num_groups
    assert encoded.grid == (4, 6) and encoded.size == (32, 48) and encoded.batch_size == 2
    if tokenizer.spec.kind == "discrete":
        assert encoded.indices.shape == (2, 24, groups) and encoded.indices.dtype == torch.int64
        assert encoded.latents is None
        assert encoded.indices_by_group().shape == (2, groups, 24)
    else:
        assert encoded.indices is None and encoded.latents.shape == (2, 24, 4)
    y = tokenizer.decode(encoded)
    assert y.shape == x.shape and y.abs().max() <= 1
    assert tokenizer.embed(encoded).shape == (2, 24, tokenizer.spec.features.quantized)
    assert tokenizer.embed(encoded, depthwise=True).shape[:3] == (2, 24, groups)


@each
def test_decode_from_indices_or_latents_equals_decode_from_encoded(kind):
    tokenizer = make(kind)
    encoded = tokenizer.encode(images())
    again = tokenizer.decode(indices=encoded.indices, latents=encoded.latents, grid=encoded.grid)
    assert torch.equal(again, tokenizer.decode(encoded))


@each
def test_save_and_load_give_equal_tokens_pictures_and_spec(kind, tmp_path):
    tokenizer = make(kind, semantic=True)
    tokenizer.save(tmp_path / "t")
    again = vistok.load(tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["config.json", "model.safetensors"]
    x = images()
    a, b = tokenizer.encode(x), again.encode(x)
    assert torch.equal(a.main.values, b.main.values)
    assert torch.equal(tokenizer.decode(a), again.decode(b))
    assert torch.equal(tokenizer.semantic(x), again.semantic(x))
    assert again.spec == tokenizer.spec and again.spec.weights_hash
    assert TokenizerSpec.from_json(again.spec.to_json()) == again.spec


def test_saving_again_replaces_the_folder_whole(tmp_path):
    make("vq").save(tmp_path / "t")
    make("fsq").save(tmp_path / "t")
    assert vistok.load(tmp_path / "t").spec.main.quantizer == "FSQ"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_saving_never_overwrites_something_else(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").write_text("years of work")
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        make().save(tmp_path / "t")
    assert (tmp_path / "t" / "thesis.txt").read_text() == "years of work"


def test_normalised_latents_decode_to_the_same_picture():
    tokenizer = make("gaussian")
    x = images()
    before = tokenizer.decode(tokenizer.encode(x))
    raw = tokenizer.encode(x).latents
    tokenizer.normaliser.set(shift=0.3, scale=[0.5, 1.0, 2.0, 4.0])
    encoded = tokenizer.encode(x)
    torch.testing.assert_close(encoded.latents, (raw - 0.3) * torch.tensor([0.5, 1.0, 2.0, 4.0]))
    torch.testing.assert_close(tokenizer.decode(encoded), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokenizer.embed(encoded), raw)
    assert tokenizer.spec.latents.scale == (0.5, 1.0, 2.0, 4.0)


def test_sampling_draws_and_the_mode_does_not():
    tokenizer = make("gaussian")
    x = images()
    assert torch.equal(tokenizer.encode(x).latents, tokenizer.encode(x).latents)
    assert not torch.equal(tokenizer.encode(x, sample=True).latents, tokenizer.encode(x).latents)


def test_encode_in_training_mode_equals_evaluation_and_leaves_the_mode():
    tokenizer = make("vq")
    x = images()
    expected = tokenizer.encode(x).indices
    tokenizer.train()
    assert torch.equal(tokenizer.encode(x).indices, expected)
    assert tokenizer.training and tokenizer.quantizer.training


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (images(33, 48), "33 x 48: both sides must be multiples of 8"),
        (images() * float("nan"), "NaN"),
        (images() * 300, "pixels must be finite and in"),
        (images()[0], "B, 3, H, W"),
        ((images() * 100).to(torch.uint8), "uint8"),
        (images()[:, :1], "B, 3, H, W"),
        (images()[:, :, :0], "not empty"),
    ],
)
def test_bad_pixels_are_refused_in_one_line(x, words):
    with pytest.raises(ImageError, match=words) as caught:
        make().encode(x)
    assert "\n" not in str(caught.value)


def test_tokens_that_do_not_fit_are_refused():
    tokenizer = make("vq")
    indices = tokenizer.encode(images()).indices
    with pytest.raises(TokenizerError, match="do not fill"):
        tokenizer.decode(indices=indices, grid=(5, 5))
    with pytest.raises(TokenizerError, match="outside"):
        tokenizer.decode(indices=indices + 32, grid=(4, 6))
    with pytest.raises(TokenizerError, match="not a square"):
        tokenizer.decode(indices=indices)
    with pytest.raises(TokenizerError, match="discrete"):
        tokenizer.decode(latents=torch.zeros(2, 24, 4), grid=(4, 6))
    with pytest.raises(TokenizerError, match="one of"):
        tokenizer.decode()
    with pytest.raises(TokenizerError, match=r"\(B, N, 1\)"):
        tokenizer.embed(indices.squeeze(-1))
    with pytest.raises(TokenizerError, match="semantic"):
        tokenizer.semantic(images())
    with pytest.raises(TokenizerError, match="pixel decoder"):
        make("vq", decoder=False, semantic=True).decode(indices=indices, grid=(4, 6))


def test_parts_that_do_not_meet_are_refused_at_construction():
    encoder = ConvEncoder(8, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4)
    decoder = ConvDecoder(4, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4)
    with pytest.raises(ValueError, match="project_in"):
        Tokenizer(encoder, VQ(8, 4), decoder)
    with pytest.raises(ValueError, match="project_out"):
        Tokenizer(encoder, VQ(8, 8), decoder)
    with pytest.raises(ValueError, match="factor"):
        Tokenizer(
            encoder, VQ(8, 8), ConvDecoder(8, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=2)
        )


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        make().save(tmp_path / "t")
        return tmp_path / "t"

    def rewrite(self, folder, change):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda w: w.pop("quantizer.codebook"), "lacks key 'quantizer.codebook'"),
            (lambda w: w.update(extra=torch.zeros(1)), "unknown key 'extra'"),
            (lambda w: w.update({"quantizer.codebook": torch.zeros(3, 4)}), r"shape \(3, 4\)"),
            (lambda w: w["quantizer.codebook"].fill_(float("nan")), "NaN"),
            (lambda w: w["quantizer.codebook"].add_(1), "does not hold the weights"),
        ],
    )
    def test_weights_that_are_not_those_of_the_config_are_refused_by_name(self, folder, change, words):
        self.rewrite(folder, change)
        with pytest.raises(TokenizerError, match=words) as caught:
            vistok.load(folder)
        assert "\n" not in str(caught.value)

    def test_a_config_cannot_run_code(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config["model"]["args"]["encoder"] = {"class": "os.system", "args": {"command": "touch /tmp/pwned"}}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(TokenizerError, match="does not export"):
            vistok.load(folder)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"model": {}, "spec": {}, "format_version": 99}', "\xff\xfe"]
    )
    def test_a_damaged_config_is_one_line(self, folder, text):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(TokenizerError) as caught:
            vistok.load(folder)
        assert "\n" not in str(caught.value)

    def test_missing_files_are_named(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(TokenizerError, match=r"no model\.safetensors"):
            vistok.load(folder)
        (folder / "config.json").unlink()
        with pytest.raises(TokenizerError, match=r"no config\.json"):
            vistok.load(folder)
        shutil.rmtree(folder)
        with pytest.raises(TokenizerError, match="no such folder"):
            vistok.load(folder)

    def test_truncated_weights_are_refused(self, folder):
        data = (folder / "model.safetensors").read_bytes()
        for size in (0, 7, 100, len(data) // 2, len(data) - 1):
            (folder / "model.safetensors").write_bytes(data[:size])
            with pytest.raises(TokenizerError, match="damaged"):
                vistok.load(folder)


def test_the_weights_hash_follows_every_change_of_a_weight():
    tokenizer = make()
    first = tokenizer.spec.weights_hash
    assert tokenizer.spec.weights_hash == first
    with torch.no_grad():
        tokenizer.quantizer.codebook.add_(1)
    second = tokenizer.spec.weights_hash
    with torch.no_grad():
        tokenizer.quantizer.codebook.sub_(1)
    assert first != second


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_training_goes_on_from_a_loaded_codebook(tmp_path, update):
    tokenizer = make(Residual(VQ(32, 4, update=MovingAverage(0.9) if update == "ema" else update), 2)).train()
    tokenizer.prepare(images())
    tokenizer.save(tmp_path / "t")
    again = vistok.load(tmp_path / "t").train()
    before = [stage.codebook.detach().clone() for stage in again.quantizer.stages]
    again.prepare(images() * 0.1)
    assert all(
        torch.equal(stage.codebook, old) for stage, old in zip(again.quantizer.stages, before, strict=True)
    )
    again(images())
    again.update()
    moved = [
        (stage.codebook - old).abs().max() for stage, old in zip(again.quantizer.stages, before, strict=True)
    ]
    assert max(moved) < 0.5 * max(old.abs().max() for old in before)


def test_half_precision_weights_encode_decode_and_come_back(tmp_path):
    tokenizer = make().to(torch.bfloat16)
    x = images()
    assert tokenizer.decode(tokenizer.encode(x)).dtype == torch.float32
    tokenizer.save(tmp_path / "t")
    again = vistok.load(tmp_path / "t")
    assert torch.equal(again.encode(x).indices, tokenizer.encode(x).indices)


def test_nothing_that_consumers_call_builds_a_graph_unless_latents_ask_for_it():
    tokenizer = make("gaussian", semantic=True)
    x = images().requires_grad_()
    encoded = tokenizer.encode(x)
    for value in (
        encoded.latents,
        tokenizer.decode(encoded),
        tokenizer.embed(encoded),
        tokenizer.semantic(x),
    ):
        assert not value.requires_grad
    latents = encoded.latents.clone().requires_grad_()
    tokenizer.decode(latents=latents, grid=encoded.grid).sum().backward()
    assert latents.grad.abs().sum() > 0
    discrete = make("vq")
    assert not discrete.decode(discrete.encode(x)).requires_grad


def test_encode_gives_each_part_its_own_mode_back():
    tokenizer = make("gaussian").train()
    tokenizer.encoder.eval()
    tokenizer.encode(images())
    assert not tokenizer.encoder.training and tokenizer.decoder.training and tokenizer.training


@pytest.mark.parametrize(
    "call",
    [
        lambda t, e: t.decode(indices=e.indices, grid=(24,)),
        lambda t, e: t.decode(indices=e.indices, grid=(-4, -6)),
        lambda t, e: t.decode(indices=e.indices[:0], grid=(4, 6)),
        lambda t, e: t.decode(indices=e.indices.numpy(), grid=(4, 6)),
        lambda t, e: t.decode(e, indices=e.indices),
        lambda t, e: t.decode(indices=e.indices.float(), grid=(4, 6)),
        lambda t, e: t.embed(None),
        lambda t, e: t.embed(e.indices.float()),
        lambda t, e: t.encode([images()]),
        lambda t, e: t.encode("photo.jpg"),
        lambda t, e: make("gaussian").decode(latents=torch.zeros(1, 24, 5), grid=(4, 6)),
        lambda t, e: make("gaussian").decode(latents=torch.full((1, 24, 4), float("nan")), grid=(4, 6)),
        lambda t, e: make("gaussian").embed(torch.zeros(1, 24, 5)),
        lambda t, e: make("gaussian").decode(indices=e.indices, grid=(4, 6)),
    ],
)
def test_wrong_calls_are_one_line_of_vistoks_own(call):
    tokenizer = make("vq")
    with pytest.raises(vistok.VistokError) as caught:
        call(tokenizer, tokenizer.encode(images()))
    assert "\n" not in str(caught.value)


def test_parts_of_the_wrong_kind_are_named():
    tokenizer = make("vq")
    with pytest.raises(ValueError, match="quantizer is Linear"):
        Tokenizer(tokenizer.encoder, torch.nn.Linear(2, 2), tokenizer.decoder)


def drawing():
    """Features without pixels' detail, and a decoder that draws one of the pictures that have them."""
    torch.manual_seed(0)
    return Tokenizer(
        ConvEncoder(8, channels=8, multipliers=(1, 1), num_res_blocks=1, patch=4),
        Identity(8),
        FlowDecoder(8, 8, (1, 1), num_res_blocks=1, patch=4, num_steps=2),
    )


def test_a_drawing_decoder_gives_its_loss_in_training_and_the_same_picture_again_after_a_reload(tmp_path):
    tokenizer, x = drawing(), images()
    assert tokenizer.loss_names == ("flow",)
    output = tokenizer.train()(x)
    assert output.image is None and output.losses["flow"].requires_grad
    output = tokenizer.eval()(x)
    assert output.image.shape == x.shape and output.losses.keys() == {"flow"}
    picture = tokenizer.decode(tokenizer.encode(x))
    tokenizer.save(tmp_path / "drawing")
    again = vistok.load(tmp_path / "drawing")
    assert torch.equal(again.decode(again.encode(x)), picture)
