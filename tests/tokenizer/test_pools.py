import pytest
import torch
from PIL import Image

from tests.tokenizer.kinds import conv, images, make, pixels
from vistok import ShardError, TokenizerError, load, shards
from vistok.backbones import PooledEncoder
from vistok.cli import main
from vistok.quantizers import VQ
from vistok.tokenizer import Tokenizer


def test_each_pooling_has_its_own_grid_and_the_spec_names_them():
    tokenizer, x = make("pooled"), images()
    stream = tokenizer.spec.main
    assert stream.pools == (1, 2, 3) and stream.factor == 4
    for pool, side in ((None, 8), (1, 8), (2, 4), (3, 2)):
        encoded = tokenizer.encode(x, pool=pool)
        assert encoded.grid == (side, side) == stream.grid(32, 32, pool)
        assert encoded.indices.shape == (3, side * side, 1)


def test_a_pooling_that_is_not_offered_is_refused():
    with pytest.raises(TokenizerError, match="pool is 4, the encoder offers 1, 2, 3"):
        make("pooled").encode(images(), pool=4)
    with pytest.raises(TokenizerError, match="offers 1"):
        make("joined").encode(images(), pool=2)
    with pytest.raises(TokenizerError, match="stream pixel offers 1, 2, 3"):
        make("pooled").spec.main.grid(32, 32, pool=5)


def test_training_draws_all_poolings():
    tokenizer, x = make("pooled").train(), images()
    torch.manual_seed(0)
    seen = {tuple(tokenizer(x).features.shape[1:3]) for _ in range(20)}
    assert seen == {(8, 8), (4, 4), (2, 2)}


def test_one_pooling_is_a_factor_and_several_have_no_pixel_decoder():
    one = Tokenizer(PooledEncoder(conv(4, 4), (2,)), VQ(8, 4), pixels(4)).eval()
    assert one.spec.main.factor == 8 and one.spec.main.pools == ()
    assert one.decode(one.encode(images())).shape == (3, 3, 32, 32)
    with pytest.raises(ValueError, match="several poolings has no pixel decoder"):
        Tokenizer(PooledEncoder(conv(4), (1, 2)), VQ(8, 4), pixels(4))


def test_another_default_is_another_tokenizer_with_the_same_weights(tmp_path):
    tokenizer, x = make("pooled"), images()
    coarse = tokenizer.pooled(2)
    assert coarse.spec.main.pools == (2, 1, 3) and tokenizer.spec.main.pools == (1, 2, 3)
    assert coarse.spec.weights_hash == tokenizer.spec.weights_hash
    assert torch.equal(coarse.encode(x).indices, tokenizer.encode(x, pool=2).indices)
    assert torch.equal(tokenizer.encode(x).indices, tokenizer.encode(x, pool=1).indices)
    coarse.save(tmp_path / "t")
    assert load(tmp_path / "t").encode(x).grid == (4, 4) == coarse.spec.main.grid(32, 32)
    with pytest.raises(TokenizerError, match="cannot be pooled: pool is 4"):
        tokenizer.pooled(4)
    assert make("joined").pooled(1).spec.main.pools == ()


def test_shards_of_a_pooling_are_its_own(tmp_path):
    tokenizer = make("pooled")
    tokenizer.save(tmp_path / "t")
    for name in ("a", "b"):
        Image.new("RGB", (32, 32), (200, 30, 80)).save(tmp_path / f"{name}.png")
    command = ["encode", "--tokenizer", str(tmp_path / "t"), "--data", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "out"), "--pool", "2"]) == 0
    dataset = shards.open(tmp_path / "out")
    assert dataset[0]["grid"] == (4, 4) and dataset.spec.main.pools[0] == 2
    dataset.check(tokenizer.pooled(2))
    with pytest.raises(ShardError, match="pools"):
        dataset.check(tokenizer)
