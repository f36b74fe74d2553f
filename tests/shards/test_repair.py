import shutil

import pytest

from tests.shards.conftest import named, tree
from vistok import shards
from vistok.errors import ImageError, ShardError

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    shards.encode(tokenizer, named(14), out, **OPTIONS)
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def flip(path, place=700):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def mended(tokenizer, out, made, remade):
    kept = {path: path.stat().st_ino for path in out.glob("shard-*")}
    report = shards.repair(tokenizer, named(14), out, progress=False)
    assert report.num_remade == remade, report
    assert tree(out) == tree(made)
    touched = {path.stem for path, inode in kept.items() if path.stat().st_ino != inode}
    assert len(touched) <= remade
    return report


def test_what_is_intact_is_left_alone(tokenizer, out, made):
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    report = mended(tokenizer, out, made, 0)
    assert "all 4 shards were intact" in str(report)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


DAMAGE = {
    "a missing shard": lambda out: (out / "shard-000001.arrow").unlink(),
    "a missing record": lambda out: (out / "shard-000001.json").unlink(),
    "a cut shard": lambda out: (out / "shard-000001.arrow").write_bytes(b"x" * 512),
    "a flipped byte": lambda out: flip(out / "shard-000001.arrow"),
    "an empty record": lambda out: (out / "shard-000001.json").write_text(""),
    "a record of another shard": lambda out: shutil.copy(
        out / "shard-000000.json", out / "shard-000001.json"
    ),
    "another shard's bytes": lambda out: shutil.copy(out / "shard-000002.arrow", out / "shard-000001.arrow"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_damaged_shard_is_made_again_and_no_other(tokenizer, out, made, kind):
    DAMAGE[kind](out)
    report = mended(tokenizer, out, made, 1)
    assert "shard-000001" in str(report)


@pytest.mark.parametrize("name", ["plan.json", "spec.json", "fingerprint.json", "index.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_files_that_describe_the_shards_are_written_again(tokenizer, out, made, name, how):
    (out / name).unlink() if how == "missing" else (out / name).write_text("{")
    flip(out / "shard-000003.arrow")
    mended(tokenizer, out, made, 1)


def test_a_shard_of_another_run_is_replaced(tokenizer, other_tokenizer, out, made, tmp_path):
    shards.encode(other_tokenizer, named(14), tmp_path / "other", **OPTIONS)
    for suffix in ("arrow", "json"):
        shutil.copy(tmp_path / "other" / f"shard-000002.{suffix}", out)
    mended(tokenizer, out, made, 1)


def test_files_outside_the_plan_are_moved_aside(tokenizer, out, made):
    (out / "shard-000009.arrow").write_bytes(b"of somebody")
    report = shards.repair(tokenizer, named(14), out, progress=False)
    assert report.moved == ("shard-000009.arrow",)
    assert (out / ".vistok-foreign" / "shard-000009.arrow").read_bytes() == b"of somebody"
    shutil.rmtree(out / ".vistok-foreign")
    assert tree(out) == tree(made)


def test_another_tokenizer_or_other_images_are_refused_and_change_nothing(tokenizer, other_tokenizer, out):
    flip(out / "shard-000001.arrow")
    before = tree(out)
    with pytest.raises(ShardError, match="weights_hash"):
        shards.repair(other_tokenizer, named(14), out, progress=False)
    with pytest.raises(ShardError, match=r"data\.first_image"):
        shards.repair(tokenizer, named(14, size=24), out, progress=False)
    (out / "fingerprint.json").unlink()
    with pytest.raises(ShardError, match="no shard's record agrees"):
        shards.repair(other_tokenizer, named(14), out, progress=False)
    before.pop("fingerprint.json")
    assert tree(out) == before


def test_the_precision_and_the_error_policy_of_the_run_are_kept(tokenizer, tmp_path):
    images = named(14, broken={"image_0005": ImageError("torn")})
    shards.encode(
        tokenizer,
        images,
        tmp_path / "a",
        precision="bfloat16",
        on_error="skip",
        max_error_rate=0.1,
        **OPTIONS,
    )
    out = shutil.copytree(tmp_path / "a", tmp_path / "b")
    flip(out / "shard-000001.arrow")
    assert shards.repair(tokenizer, images, out, progress=False).num_remade == 1
    assert tree(out) == tree(tmp_path / "a")


def test_a_place_without_shards_is_refused(tokenizer, tmp_path):
    with pytest.raises(ShardError, match="nothing is there"):
        shards.repair(tokenizer, named(14), tmp_path / "nowhere")


SKIPPING = {"on_error": "skip", "max_error_rate": 0.2, **OPTIONS}


@pytest.fixture
def skipping(tokenizer, tmp_path):
    """A run of twelve images that left one out, and what it wrote."""
    images = named(12, broken={"image_0005": ImageError("torn")})
    out = tmp_path / "skipping"
    shards.encode(tokenizer, images, out, **SKIPPING)
    return out


def test_an_image_that_is_gone_is_an_error_and_leaves_the_damaged_shard(tokenizer, skipping):
    flip(skipping / "shard-000001.arrow")
    before = tree(skipping)
    torn = {f"image_{i:04d}": ImageError("gone") for i in range(5, 12)}
    with pytest.raises(ShardError, match=r"'image_0006' of damaged shard 1 cannot be read any more: gone"):
        shards.repair(tokenizer, named(12, broken=torn), skipping, progress=False)
    assert tree(skipping) == before
    # once it is back, only what was left out before is left out
    report = shards.repair(
        tokenizer, named(12, broken={"image_0005": ImageError("torn")}), skipping, progress=False
    )
    assert (report.num_remade, report.lost) == (1, ())
    assert shards.verify(skipping).num_samples == 11


def test_without_a_record_the_rate_of_the_run_binds_and_the_report_names_the_lost(tokenizer, skipping):
    (skipping / "shard-000001.json").unlink()
    many = {f"image_{i:04d}": ImageError("gone") for i in range(4, 8)}
    before = tree(skipping)
    with pytest.raises(
        ShardError, match=r"lost its record, and with image 'image_0006' .* max_error_rate=0\.2"
    ):
        shards.repair(tokenizer, named(12, broken=many), skipping, progress=False)
    assert tree(skipping) == before
    some = {f"image_{i:04d}": ImageError("gone") for i in (5, 6)}
    report = shards.repair(tokenizer, named(12, broken=some), skipping, progress=False)
    assert report.lost == ("image_0005", "image_0006")
    assert "'image_0006' cannot be encoded and is left out" in str(report)
    assert shards.verify(skipping).ok


def test_what_was_left_out_may_be_left_out_without_the_record_of_the_policy(tokenizer, skipping):
    (skipping / "made-with.jsonl").unlink()
    before = tree(skipping)
    flip(skipping / "shard-000001.arrow")
    images = named(12, broken={"image_0005": ImageError("torn")})
    assert shards.repair(tokenizer, images, skipping, progress=False).num_remade == 1
    assert tree(skipping) == before
