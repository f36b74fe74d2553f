"""A run begins where another ended, strictly and visibly."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from tests.tokenizer.kinds import make
from tests.training.parts import differing, make_data, make_module, make_tokenizer, make_trainer, weights
from vistok import Tokenizer, load
from vistok.backbones import ConvDecoder, FeatureDecoder
from vistok.errors import RecipeError, TokenizerError
from vistok.quantizers import FSQ, VQ, Gaussian
from vistok.training import Checkpoint, CodebookWatchdog, SaveTokenizer, Stage, build
from vistok.training.stage import _named_here, take_over


@pytest.fixture
def start(tmp_path):
    """A tokenizer that was trained for two steps."""
    folder = tmp_path / "start"
    module = make_module(tokenizer=make_tokenizer(quantizer()))
    make_trainer(tmp_path, 2, callbacks=[SaveTokenizer(str(folder))]).fit(module, make_data())
    return str(folder)


def quantizer() -> VQ:
    return VQ(16, 4, update="ema", revive_after=2)


def another() -> Tokenizer:
    """The same parts with other weights."""
    torch.manual_seed(7)
    made = make_tokenizer(quantizer())
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    return made


def train(folder, steps, stage, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = make_module(gan=True, tokenizer=another(), ema_decay=0.9, **options)
    callbacks = [stage, Checkpoint(), CodebookWatchdog(window=1, min_usage=1.0, revive=True)]
    trainer = make_trainer(folder, steps, callbacks=callbacks, val_check_interval=2)
    trainer.fit(module, make_data(val="procedural:2"), ckpt_path=ckpt_path, weights_only=True)
    return module


FROZEN = ["encoder", "quantizer"]


@pytest.mark.filterwarnings("ignore:step .* codes")
def test_frozen_parts_stay_equal_to_the_last_bit_and_the_others_move(tmp_path, start):
    module = train(tmp_path, 5, Stage(start, new=["decoder"], frozen=FROZEN))
    there = load(start)
    assert not differing(weights(module.tokenizer.encoder), weights(there.encoder))
    assert torch.equal(module.tokenizer.quantizer.codebook, there.quantizer.codebook)
    assert torch.equal(module.exported.quantizer.codebook, there.quantizer.codebook)
    assert not differing(weights(module.exported.encoder), weights(there.encoder))
    assert differing(weights(module.tokenizer.decoder), weights(there.decoder))
    assert differing(weights(module.tokenizer.decoder), weights(another().decoder))
    assert not any(part.training for part in module.tokenizer.quantizer.modules())
    # what the optimizer holds is the decoder alone
    held = {id(w) for group in module.trainer.optimizers[0].param_groups for w in group["params"]}
    assert held == {id(w) for w in module.tokenizer.decoder.parameters()}
    told = module.provenance["stage"]
    assert told["start"] == start and told["weights_hash"] == there.spec.weights_hash


@pytest.mark.filterwarnings("ignore:step .* codes")
def test_a_stage_in_two_parts_equals_one_in_whole_although_its_start_is_gone(tmp_path, start):
    whole = train(tmp_path / "whole", 6, Stage(start, new=["decoder"], frozen=FROZEN))
    train(tmp_path / "parts", 3, Stage(start, new=["decoder"], frozen=FROZEN))
    checkpoint = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    stage = Stage(str(tmp_path / "gone"), new=["decoder"], frozen=FROZEN)
    stage.begin(resumed_tokenizer := another(), resumed=True)
    assert not any(weight.requires_grad for weight in resumed_tokenizer.encoder.parameters())
    stage = Stage(start, new=["decoder"], frozen=FROZEN)
    parts = train(tmp_path / "parts", 6, stage, ckpt_path=checkpoint)
    assert parts.step == whole.step == 6
    assert not differing(weights(parts), weights(whole))
    assert parts.provenance == whole.provenance


def test_what_is_loaded_new_and_frozen_is_printed(start, caplog):
    with caplog.at_level(logging.INFO):
        Stage(start, new=["decoder"], frozen=["encoder"]).begin(another())
    told = caplog.text
    assert f"from {start}" in told and "loaded encoder (" in told and "quantizer (64 values)" in told
    assert "stage: new decoder" in told and "stage: frozen encoder; 0.0" in told


def test_parts_that_are_built_otherwise_are_told(start):
    other = make_tokenizer(VQ(16, 4, metric="cosine", update="ema"))
    lines = take_over(other, load(start), [], "there")
    (line,) = [line for line in lines if "otherwise" in line]
    assert "metric='cosine' in place of 'euclid'" in line and "revive_after=0 in place of 2" in line


def test_a_loaded_codebook_is_not_started_by_k_means(tmp_path, start):
    module = make_module(tokenizer=another())
    stage = Stage(start)
    stage.begin(module.tokenizer)
    assert bool(module.tokenizer.quantizer.prepared)
    assert torch.equal(module.tokenizer.quantizer.codebook, load(start).quantizer.codebook)


def with_head(tokenizer: Tokenizer) -> Tokenizer:
    head = FeatureDecoder(4, 3, width=8, depth=0, num_heads=1)
    return Tokenizer(tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder, feature_head=head)


def test_weights_that_are_missing_or_unused_are_refused_unless_their_part_is_new(tmp_path, start):
    with pytest.raises(RecipeError, match=r"has no weights 'feature_head\..* name the part 'feature_head'"):
        Stage(start).begin(with_head(another()))
    Stage(start, new=["feature_head"]).begin(with_head(another()))
    with_head(make_tokenizer(quantizer())).save(tmp_path / "headed")
    with pytest.raises(RecipeError, match=r"has weights 'feature_head\..*, but the recipe does not"):
        Stage(str(tmp_path / "headed")).begin(another())
    Stage(str(tmp_path / "headed"), new=["feature_head"]).begin(another())


def test_misshapen_weights_are_refused(start):
    other = another()
    wide = ConvDecoder(4, channels=16, multipliers=(1, 1), num_res_blocks=1)
    tokenizer = Tokenizer(other.encoder, other.quantizer, wide)
    with pytest.raises(
        RecipeError, match=r"'decoder\..* of shape .* the recipe's is .* build 'decoder' as it was"
    ):
        Stage(start).begin(tokenizer)
    Stage(start, new=["decoder"]).begin(tokenizer)


def test_nothing_is_changed_where_a_stage_is_refused(start):
    tokenizer = with_head(another())
    wide = another()
    wide.decoder = ConvDecoder(4, channels=16, multipliers=(1, 1), num_res_blocks=1)
    for refused in (tokenizer, wide):
        before = copy.deepcopy(weights(refused))
        with pytest.raises(RecipeError):
            Stage(start).begin(refused)
        assert not differing(before, weights(refused))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": ["encodr"]}, r"stage\.frozen names 'encodr'.*did you mean 'encoder'"),
        ({"frozen": [""]}, "no such part"),
        (
            {"new": ["merge"]},
            r"stage\.new names 'merge', and there is no such part: there is decoder, encoder",
        ),
    ],
)
def test_unknown_parts_are_refused_with_those_that_exist(start, options, message):
    with pytest.raises(RecipeError, match=message):
        Stage(start, **options).begin(another())


def test_new_parts_without_a_start_and_a_start_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"without stage\.start all parts are new"):
        Stage(new=["decoder"])
    with pytest.raises(TokenizerError, match="no tokenizer at"):
        Stage(str(tmp_path / "nowhere")).begin(another())


@pytest.mark.parametrize("make", [lambda: FSQ((4, 3)), lambda: Gaussian(4)], ids=["fsq", "gaussian"])
def test_a_frozen_tokenizer_with_a_new_head_trains_it_alone(tmp_path, make):
    make_tokenizer(make()).save(tmp_path / "start")
    before = load(tmp_path / "start")
    stage = Stage(
        str(tmp_path / "start"),
        frozen=["encoder", "quantizer", "normaliser"][: 2 + (make().codebook_size is None)],
    )
    module = make_module(tokenizer=make_tokenizer(make()))
    make_trainer(tmp_path / "run", 2, callbacks=[stage]).fit(module, make_data())
    assert not differing(weights(module.tokenizer.encoder), weights(before.encoder))
    assert differing(weights(module.tokenizer.decoder), weights(before.decoder))


def test_a_recipe_names_the_stage(tmp_path, capsys):
    first = [
        "--trainer.default_root_dir",
        str(tmp_path / "a"),
        "--trainer.max_steps",
        "2",
        "--data.size",
        "32",
    ]
    build("fit", ["demo", "tiny"], first).run()
    (tmp_path / "second.yaml").write_text(
        f"stage: {{start: {tmp_path}/a/tokenizer, new: [decoder, project_out], frozen: [encoder, project_in, quantizer]}}\n"
    )
    second = ["--trainer.default_root_dir", str(tmp_path / "b"), *first[2:]]
    cli = build("fit", ["demo", "tiny", str(tmp_path / "second.yaml")], second)
    cli.run()
    a, b = load(tmp_path / "a" / "tokenizer"), load(tmp_path / "b" / "tokenizer")
    assert not differing(weights(a.encoder), weights(b.encoder))
    assert torch.equal(a.quantizer.codebook, b.quantizer.codebook)
    assert differing(weights(a.decoder), weights(b.decoder))
    assert b.provenance["stage"]["weights_hash"] == a.spec.weights_hash
    assert b.provenance["recipe_hash"] != a.provenance["recipe_hash"]


def test_a_part_may_have_another_name_there(tmp_path):
    make("proxy").save(tmp_path / "first")
    first, second = load(tmp_path / "first"), make("proxy_pixels")
    for parameter in second.parameters():
        torch.nn.init.zeros_(parameter)
    renamed = {"feature_head": "decoder.head"}
    take_over(second, first, ["decoder.project", "decoder.decoder"], "first", renamed)
    assert not differing(weights(second.decoder.head), weights(first.feature_head))
    assert not differing(weights(second.encoder), weights(first.encoder))
    assert not any(weight.any() for weight in second.decoder.decoder.parameters())
    with pytest.raises(RecipeError, match="renamed names 'head'"):
        take_over(second, first, [], "first", {"head": "decoder.head"})


def test_the_longest_name_that_is_renamed_counts():
    pairs = [("encoder", "decoder"), ("encoder.head", "feature_head")]
    for renamed in (dict(pairs), dict(reversed(pairs))):
        assert _named_here("encoder.head.weight", renamed) == "feature_head.weight"
        assert _named_here("encoder.body.weight", renamed) == "decoder.body.weight"


def test_two_parts_are_not_taken_over_under_one_name():
    with pytest.raises(
        RecipeError, match=r"gives 'project_in.* and 'project_out.* the one name 'project_out"
    ):
        take_over(make("dual"), make("dual"), [], "first", {"project_in": "project_out"})


@pytest.mark.parametrize("frozen", [[], ["encoder", "project_in", "quantizer"]])
def test_latents_normalised_per_element_are_taken_over_and_resumed(tmp_path, frozen):
    first = make_tokenizer(Gaussian(4))
    scale = torch.rand(64, 4) + 0.5
    first.normaliser.set(torch.randn(64, 4), scale, (8, 8))
    first.save(tmp_path / "first")

    def run(steps, ckpt_path=None):
        stage, export = Stage(str(tmp_path / "first"), frozen=frozen), SaveTokenizer(str(tmp_path / "second"))
        module = make_module(tokenizer=make_tokenizer(Gaussian(4)), ema_decay=0.5)
        trainer = make_trainer(tmp_path, steps, callbacks=[stage, export, Checkpoint()])
        trainer.fit(module, make_data(), ckpt_path=ckpt_path, weights_only=True)
        return load(tmp_path / "second")

    for saved in (run(2), run(4, tmp_path / "checkpoints" / "last.ckpt")):
        if frozen:
            assert saved.normaliser.grid == (8, 8) and torch.equal(saved.normaliser.scale, scale)
        else:  # measured anew, per channel
            assert saved.normaliser.grid == () and saved.normaliser.scale.shape == (4,)
