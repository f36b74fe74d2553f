import json

import pytest
import torch
import webdataset

from tests.shards.conftest import Images, build_tokenizer, named, tree
from vistok import shards
from vistok.data import Procedural
from vistok.errors import ImageError, ShardError
from vistok.quantizers import VQ
from vistok.spec import ImagePolicy

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}

WEIRD = [
    "a.b.c", ".hidden", "dir/sub/x", "with space", "é", "e\u0301", "Case", "case", "k" * 300, "../up", "new\nline",
    "", "\udcff", "%2F", "tab\t", "/absolute", "a.png/b", "a", "..", "-rf",
]  # fmt: skip


def test_the_shards_hold_what_the_tokenizer_gives(tokenizer, tmp_path):
    images = named(6, fields={"image_0003": {"label": 7, "caption": "a cat"}})
    summary = shards.encode(tokenizer, images, tmp_path / "out", **OPTIONS)
    assert (summary.num_images, summary.num_encoded, summary.num_shards) == (6, 6, 2)
    tokens = shards.open(tmp_path / "out", tokenizer)
    for start in (0, 2, 4):
        expected = tokenizer.encode(torch.stack([images[start]["image"], images[start + 1]["image"]]))
        for place in (0, 1):
            item = tokens[start + place]
            assert torch.equal(item["indices"], expected.indices[place])
            assert item["indices"].dtype == torch.int64
            assert item["grid"] == expected.grid == (2, 2)
            assert item["key"] == images.keys()[start + place]
    assert (tokens[3]["label"], tokens[3]["caption"]) == (7, "a cat")


def test_continuous_latents_are_stored_in_float32(continuous, tmp_path):
    images = named(2)
    shards.encode(continuous, images, tmp_path / "out", **OPTIONS)
    expected = continuous.encode(torch.stack([images[0]["image"], images[1]["image"]]))
    assert torch.equal(shards.open(tmp_path / "out")[1]["latents"], expected.latents[1])


def test_plain_webdataset_reads_the_shards(tokenizer, tmp_path):
    images = Images(WEIRD[:8])
    shards.encode(tokenizer, images, tmp_path / "out", container="tar", **OPTIONS)
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    found = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    tokens = shards.open(tmp_path / "out")
    assert [sample["json"]["key"] for sample in found] == sorted(WEIRD[:8])
    for sample, item in zip(found, tokens, strict=True):
        assert sample["pixel.npy"].dtype == "uint8"
        assert sample["pixel.npy"].tolist() == item["indices"].tolist()


@pytest.mark.parametrize("container", ["tar", "arrow", "arrow-packed"])
def test_keys_of_every_kind_survive(tokenizer, tmp_path, container):
    shards.encode(tokenizer, Images(WEIRD), tmp_path / "out", container=container, **OPTIONS)
    tokens = shards.open(tmp_path / "out")
    assert tokens.keys() == sorted(WEIRD)
    assert [item["key"] for item in tokens] == sorted(WEIRD)
    assert all(tokens[key]["key"] == key for key in WEIRD)
    assert shards.verify(tmp_path / "out").ok


@pytest.mark.parametrize("container", ["tar", "arrow", "arrow-packed"])
def test_images_of_mixed_sizes_stay_in_the_order_of_the_plan(tokenizer, tmp_path, container):
    sizes = {f"image_{i:04d}": (8 * (1 + i % 3), 8 * (1 + i % 2)) for i in range(14)}
    images = named(14, sizes=sizes)
    options = {"batch_size": 2, "shard_size": 7, "progress": False}
    shards.encode(tokenizer, images, tmp_path / "out", container=container, **options)
    assert shards.verify(tmp_path / "out").ok
    for item in shards.open(tmp_path / "out"):
        assert item["size"] == sizes[item["key"]]
        assert item["grid"] == (item["size"][0] // 8, item["size"][1] // 8)
        assert len(item["indices"]) == item["grid"][0] * item["grid"][1]


def test_a_complete_output_is_a_no_op(tokenizer, tmp_path):
    out = tmp_path / "out"
    shards.encode(tokenizer, named(6), out, **OPTIONS)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}
    summary = shards.encode(tokenizer, named(6), out, **OPTIONS)
    assert summary.num_shards_new == 0
    assert summary.num_encoded == 6
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()} == before


def test_any_number_of_workers_gives_the_same_bytes(tokenizer, tmp_path):
    for workers in (0, 2):
        shards.encode(tokenizer, Procedural(7, 16), tmp_path / str(workers), workers=workers, **OPTIONS)
    assert tree(tmp_path / "0") == tree(tmp_path / "2")


def test_only_the_shards_that_are_missing_or_damaged_are_made_again(tokenizer, tmp_path):
    out = tmp_path / "out"
    shards.encode(tokenizer, named(12), out, **OPTIONS)
    whole = tree(out)
    (out / "shard-000000.json").write_text("")
    (out / "shard-000002.arrow").write_bytes(b"short")
    (out / "index.json").unlink()
    assert shards.encode(tokenizer, named(12), out, **OPTIONS).num_shards_new == 2
    assert tree(out) == whole


@pytest.mark.parametrize(
    ("change", "field"),
    [({"other": True}, "weights_hash"), ({"container": "tar"}, "container was"), ({"shard_size": 3}, "plan.shard_size"), ({"count": 7}, "plan.num_samples"),
     ({"size": 24}, "data.first_image")],
)  # fmt: skip
def test_another_run_in_the_same_directory_is_refused_by_field(
    tokenizer, other_tokenizer, tmp_path, change, field
):
    shards.encode(tokenizer, named(6), tmp_path / "out", **OPTIONS)
    before = tree(tmp_path / "out")
    chosen = other_tokenizer if change.get("other") else tokenizer
    options = {
        **OPTIONS,
        "shard_size": change.get("shard_size", 4),
        "container": change.get("container", "arrow"),
    }
    with pytest.raises(ShardError, match=field):
        shards.encode(
            chosen, named(change.get("count", 6), size=change.get("size", 16)), tmp_path / "out", **options
        )
    assert tree(tmp_path / "out") == before


def test_another_codebook_size_of_the_same_class_is_refused_by_name(tmp_path):
    shards.encode(build_tokenizer(VQ(64, 8)), named(2), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"model\.quantizer\.codebook_size was 64 and is 128 now"):
        shards.encode(build_tokenizer(VQ(128, 8)), named(2), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"model\.quantizer\.codebook_size was 64 and is 128 now"):
        shards.open(tmp_path / "out", build_tokenizer(VQ(128, 8)))


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"interpolation": "lanczos"}, r'image\.interpolation was "bicubic" and is "lanczos" now'),
        ({"size": (16, 16)}, r"image\.size was null and is \[16, 16\] now"),
        ({"background": (0, 0, 0)}, r"image\.background was \[255, 255, 255\] and is \[0, 0, 0\] now"),
        ({"fit": "pad"}, r'image\.fit was "crop" and is "pad" now'),
    ],
)
def test_another_image_policy_is_refused_by_name(tokenizer, tmp_path, policy, told):
    shards.encode(tokenizer, named(2), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=told):
        shards.encode(build_tokenizer(image=ImagePolicy(**policy)), named(2), tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 3)])
def test_a_run_goes_on_with_another_number_of_workers_to_the_same_bytes(tokenizer, tmp_path, before, after):
    def images(**broken):
        return named(12, fields={f"image_{i:04d}": {"label": i} for i in range(12)}, **broken)

    shards.encode(tokenizer, images(), tmp_path / "whole", **OPTIONS)
    torn = images(broken={"image_0006": ValueError("torn apart")})
    with pytest.raises(ShardError, match="torn apart"):
        shards.encode(tokenizer, torn, tmp_path / "out", workers=before, **OPTIONS)
    summary = shards.encode(tokenizer, images(), tmp_path / "out", workers=after, **OPTIONS)
    assert (summary.num_shards, summary.num_shards_new) == (3, 2)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_tokenizer_of_another_build_is_refused_by_field(tokenizer, continuous, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"model\.quantizer\.class was \"FSQ\" and is \"Gaussian\" now"):
        shards.encode(continuous, named(2), tmp_path / "out", **OPTIONS)


def test_the_first_image_that_fails_ends_the_run_and_commits_nothing_short(tokenizer, tmp_path):
    images = named(8, broken={"image_0006": ImageError("torn apart")})
    with pytest.raises(ShardError, match="'image_0006' cannot be encoded: torn apart"):
        shards.encode(tokenizer, images, tmp_path / "out", **OPTIONS)
    assert sorted(path.name for path in (tmp_path / "out").glob("*shard*")) == [
        "shard-000000.arrow",
        "shard-000000.json",
    ]
    shards.encode(tokenizer, named(8), tmp_path / "out", **OPTIONS)
    assert shards.verify(tmp_path / "out").ok


BAD = {
    "image_0001": torch.full((3, 16, 16), float("nan")),
    "image_0002": torch.full((3, 16, 16), 3.0),
    "image_0003": torch.zeros(3, 12, 16),
    "image_0004": torch.zeros(16, 16),
    "image_0005": OSError("gone"),
    "image_0007": torch.full((3, 16, 16), float("inf")),
}


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_skipped_images_are_counted_and_explained(tokenizer, tmp_path, policy):
    out = tmp_path / "out"
    summary = shards.encode(
        tokenizer, named(10, broken=BAD), out, on_error=policy, max_error_rate=0.6, **OPTIONS
    )
    assert (summary.num_images, summary.num_encoded, summary.num_skipped) == (10, 4, 6)
    tokens = shards.open(out)
    assert set(tokens.skipped) == set(BAD)
    assert tokens.skipped["image_0005"] == "OSError: gone"
    assert "NaN" in tokens.skipped["image_0001"]
    assert tokens.keys() == [item["key"] for item in tokens]
    for path in out.glob("shard-*.json"):
        sidecar = json.loads(path.read_text())
        assert sidecar["n_in"] == sidecar["n_out"] + len(sidecar["skipped"])
    assert shards.verify(out).ok
    kept = {path.name for path in (out / "quarantine").glob("*.json")}
    assert kept == ({f"00000000{key[-1]}.json" for key in BAD} if policy == "quarantine" else set())


def test_more_failures_than_allowed_end_the_run(tokenizer, tmp_path):
    with pytest.raises(ShardError, match=r"3 of 10 images cannot be encoded, more than max_error_rate=0\.2"):
        shards.encode(
            tokenizer, named(10, broken=BAD), tmp_path / "out", on_error="skip", max_error_rate=0.2, **OPTIONS
        )


def test_fields_that_json_cannot_hold_are_named(tokenizer, tmp_path):
    with pytest.raises(ShardError, match=r"'image_0000'.*field of type object"):
        shards.encode(
            tokenizer, named(2, fields={"image_0000": {"x": object()}}), tmp_path / "out", **OPTIONS
        )


@pytest.mark.parametrize("name", ["size", "grid", "indices", "latents", "std", "streams", "lengths"])
def test_fields_that_shards_use_themselves_are_refused_by_name(tokenizer, tmp_path, name):
    images = named(2, fields={"image_0001": {name: 3}})
    with pytest.raises(ShardError, match=f"'image_0001'.*'{name}' is a name that token shards use"):
        shards.encode(tokenizer, images, tmp_path / "out", **OPTIONS)


def test_duplicate_keys_are_refused(tokenizer, tmp_path):
    with pytest.raises(ShardError, match="two images have the key 'a'"):
        shards.encode(tokenizer, Images(["a", "b", "a"]), tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize("kind", ["file", "dangling link", "other things"])
def test_an_output_that_is_not_ours_is_refused(tokenizer, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "holiday.jpg").write_text("mine")
    with pytest.raises(ShardError, match="give a new or empty"):
        shards.encode(tokenizer, named(2), out, **OPTIONS)


def test_a_missing_parent_is_made(tokenizer, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "a" / "b", **OPTIONS)
    assert shards.verify(tmp_path / "a" / "b").ok


@pytest.mark.parametrize(
    "wrong",
    [
        {"container": "zip"},
        {"latents": "int8"},
        {"latents": "float16"},
        {"moments": True},
        {"batch_size": 0},
        {"shard_size": 0},
        {"workers": -1},
        {"on_error": "ignore"},
    ],
)
def test_wrong_arguments_are_refused(tokenizer, tmp_path, wrong):
    with pytest.raises(ShardError):
        shards.encode(tokenizer, named(2), tmp_path / "out", **{**OPTIONS, **wrong})


def test_each_module_gets_its_mode_back(tokenizer, tmp_path):
    tokenizer.train()
    tokenizer.encoder.eval()
    try:
        shards.encode(tokenizer, named(2), tmp_path / "out", **OPTIONS)
        assert tokenizer.training
        assert not tokenizer.encoder.training
    finally:
        tokenizer.eval()


def test_the_bar_tells_images_and_tokens_a_second(tokenizer, tmp_path, capsys):
    shards.encode(tokenizer, named(6), tmp_path / "out", batch_size=2, shard_size=4)
    told = capsys.readouterr().err
    assert "6/6" in told
    assert "tokens/s" in told


def test_who_made_the_shards_is_recorded_beside_them_and_not_in_them(tokenizer, tmp_path):
    images, out = named(8), tmp_path / "out"
    shards.encode(tokenizer, images, out, **OPTIONS)
    before = tree(out)
    (out / "shard-000001.json").unlink()
    shards.encode(tokenizer, images, out, **{**OPTIONS, "batch_size": 4})
    shards.encode(tokenizer, images, out, **OPTIONS)  # nothing to do, so nothing to record
    lines = [json.loads(line) for line in (out / "made-with.jsonl").read_text().splitlines()]
    assert [line["batch_size"] for line in lines] == [2, 4] and lines[0]["torch"] == torch.__version__
    assert tree(out) == before


@pytest.mark.parametrize("kind", ["new", "in a missing parent", "empty"])
def test_a_run_without_a_single_shard_takes_back_what_it_made(tokenizer, tmp_path, kind):
    out = tmp_path / "a" / "out" if kind == "in a missing parent" else tmp_path / "out"
    if kind == "empty":
        out.mkdir()
    with pytest.raises(ShardError, match="cannot be encoded"):
        shards.encode(tokenizer, named(6, broken={"image_0003": ImageError("torn")}), out, **OPTIONS)
    assert list(tmp_path.iterdir()) == ([out] if kind == "empty" else [])
    assert tree(tmp_path) == {}


def test_what_was_described_and_never_encoded_binds_nobody(tokenizer, other_tokenizer, tmp_path):
    shards.encode(tokenizer, named(6), tmp_path / "killed", **OPTIONS)
    for path in (tmp_path / "killed").glob("shard-*"):
        path.unlink()
    for out in ("killed", "fresh"):
        shards.encode(other_tokenizer, named(5), tmp_path / out, **OPTIONS)
    assert tree(tmp_path / "killed") == tree(tmp_path / "fresh")


def test_quarantined_images_stay_to_be_looked_at_until_the_next_run(tokenizer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ShardError, match="max_error_rate"):
        shards.encode(tokenizer, named(10, broken=BAD), out, on_error="quarantine", **OPTIONS)
    assert list((out / "quarantine").glob("*.json"))
    shards.encode(tokenizer, named(5), out, on_error="quarantine", **OPTIONS)
    assert not list((out / "quarantine").iterdir()) and shards.verify(out).ok


def test_a_stranger_in_the_directory_is_left_as_it_was(tokenizer, tmp_path):
    (tmp_path / "spec.json").write_text("mine")
    with pytest.raises(ShardError, match=r"spec\.json"):
        shards.encode(tokenizer, named(2), tmp_path, **OPTIONS)
    assert tree(tmp_path) == {"spec.json": b"mine"}


def test_other_fields_of_the_first_image_are_refused(tmp_path, tokenizer):
    def labelled(label):
        return named(6, fields={f"image_{i:04d}": {"label": label} for i in range(6)})

    shards.encode(tokenizer, labelled(1), tmp_path / "o", **OPTIONS)
    (tmp_path / "o" / "shard-000001.json").unlink()
    with pytest.raises(ShardError, match=r"data\.first_fields"):
        shards.encode(tokenizer, labelled(2), tmp_path / "o", **OPTIONS)


def test_files_of_somebody_else_named_like_ours_are_refused_and_left(tokenizer, tmp_path):
    theirs = {
        "plan.json": '{"mine": "my life"}',
        "spec.json": "mine",
        "fingerprint.json": "[1, 2]",
        "made-with.jsonl": "x",
    }
    for name, images in (("a", named(2)), ("b", named(2, broken={"image_0000": ImageError("torn")}))):
        out = tmp_path / name
        out.mkdir()
        for file, text in theirs.items():
            (out / file).write_text(text)
        with pytest.raises(ShardError, match="is not an output of vistok"):
            shards.encode(tokenizer, images, out, progress=False)
        assert {path.name: path.read_text() for path in out.iterdir()} == theirs


def test_a_failing_run_takes_back_only_the_files_that_it_made(tokenizer, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "out", progress=False)
    for path in (*(tmp_path / "out").glob("shard-*"), tmp_path / "out" / "made-with.jsonl"):
        path.unlink()
    torn = named(2, broken={"image_0000": ImageError("torn")})
    with pytest.raises(ShardError, match="torn"):
        shards.encode(tokenizer, torn, tmp_path / "out", progress=False)
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"plan.json", "spec.json", "fingerprint.json"} <= kept
    assert "made-with.jsonl" not in kept
