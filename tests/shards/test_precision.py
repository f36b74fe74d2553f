import warnings

import pytest
import torch

from tests.shards.conftest import build_tokenizer, named, tree
from vistok import shards
from vistok.errors import ShardError
from vistok.quantizers import VQ
from vistok.shards.precision import compiled, in_precision

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_encoder_is_cast_and_the_quantizer_is_not(precision):
    tokenizer = build_tokenizer(VQ(16, 4))
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    cast = in_precision(tokenizer, precision)
    assert {p.dtype for p in cast.encoder.parameters()} == {getattr(torch, precision)}
    assert {p.dtype for p in cast.quantizer.parameters()} == {torch.float32}
    assert cast.decoder is tokenizer.decoder
    weights = [p for p in cast.encoder.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_its_own_precision_changes_nothing(tokenizer):
    assert in_precision(tokenizer, None) is tokenizer
    assert in_precision(tokenizer, "float32") is tokenizer


def test_an_unknown_precision_is_refused(tokenizer):
    with pytest.raises(ShardError, match="precision must be one of float32"):
        in_precision(tokenizer, "int8")


def test_shards_of_another_precision_belong_to_the_same_tokenizer(tokenizer, tmp_path):
    shards.encode(tokenizer, named(6), tmp_path / "out", precision="bfloat16", **OPTIONS)
    found = shards.open(tmp_path / "out", tokenizer)
    expected = in_precision(tokenizer, "bfloat16").encode(torch.stack([named(6)[i]["image"] for i in (0, 1)]))
    assert torch.equal(found[1]["indices"], expected.indices[1])
    with pytest.raises(ShardError, match=r"dtype was \"bfloat16\" and is \"float32\" now"):
        shards.encode(tokenizer, named(6), tmp_path / "out", **OPTIONS)


def test_an_encoder_that_cannot_be_compiled_is_told_in_one_line_and_runs_all_the_same(
    tokenizer, tmp_path, monkeypatch
):
    def failing(model, **options):
        def call(image):
            raise RuntimeError("no C++ compiler\nwas found")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    shards.encode(tokenizer, named(6), tmp_path / "plain", **OPTIONS)
    with pytest.warns(UserWarning, match="cannot be compiled here: no C") as told:
        shards.encode(tokenizer, named(6), tmp_path / "compiled", compile=True, **OPTIONS)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert tree(tmp_path / "plain") == tree(tmp_path / "compiled")


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_tokens(tokenizer):
    ready = compiled(tokenizer.eval())
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(ready.encode(x).indices, tokenizer.encode(x).indices)
    assert tokenizer.encoder.forward.__self__ is tokenizer.encoder
