import json
import shutil

import pytest

from tests.shards.conftest import named
from vistok import shards
from vistok.errors import ShardError

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}


@pytest.fixture(scope="module", params=["tar", "arrow", "arrow-packed"])
def container(request):
    return request.param


@pytest.fixture(scope="module")
def suffix(container):
    return container.partition("-")[0]


@pytest.fixture(scope="module")
def made(tokenizer, container, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    shards.encode(tokenizer, named(10), out, container=container, **OPTIONS)
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def only_problem(out, full=True):
    report = shards.verify(out, full=full)
    assert not report.ok
    assert all("\n" not in problem for problem in report.problems)
    return report.problems[0]


def test_an_intact_output_has_no_problems(out):
    report = shards.verify(out)
    assert report.ok, report
    assert (report.num_shards, report.num_samples) == (3, 10)
    assert shards.verify(out, full=False).ok


def test_every_cut_of_a_shard_is_found(out, suffix):
    path = out / f"shard-000001.{suffix}"
    data = path.read_bytes()
    for length in range(0, len(data), 512):
        path.write_bytes(data[:length])
        assert f"shard-000001.{suffix}" in only_problem(out, full=False)


def test_a_flipped_byte_is_found(out, suffix):
    path = out / f"shard-000001.{suffix}"
    for place in range(0, path.stat().st_size, 997):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        assert f"shard-000001.{suffix} is damaged" in only_problem(out)
        data[place] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("text", [None, "", "{}", "{", "[]", '{"file": 1}', "null"])
def test_a_missing_or_damaged_record_is_found(out, text):
    path = out / "shard-000001.json"
    path.unlink() if text is None else path.write_text(text)
    assert "shard-000001" in only_problem(out)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_in", 3), ("n_out", 3), ("skipped", {"x": "y"}), ("sha256", "0" * 64), ("fingerprint", "0" * 64),
     ("file", "shard-000000.x"), ("num_tokens", 1), ("bytes", 1), ("bytes", "1")],
)  # fmt: skip
def test_a_record_that_says_something_else_is_found(out, field, value):
    path = out / "shard-000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert "shard-000001" in only_problem(out)


def test_a_missing_shard_is_found(out, suffix):
    (out / f"shard-000001.{suffix}").unlink()
    report = shards.verify(out)
    assert f"shard-000001.{suffix}" in report.problems[0]
    assert "index.json names shards that are missing" in report.problems[1]


def test_a_shard_of_the_plan_that_was_never_made_is_found(out, suffix):
    (out / f"shard-000002.{suffix}").unlink()
    (out / "shard-000002.json").unlink()
    assert f"shard-000002.{suffix} is missing" in only_problem(out)


def test_a_shard_that_is_not_in_the_plan_is_found(out, suffix):
    shutil.copy(out / f"shard-000001.{suffix}", out / f"shard-000007.{suffix}")
    assert f"shard-000007.{suffix} is not in the plan" in only_problem(out)


def test_a_shard_of_another_run_is_found(out, other_tokenizer, tmp_path, suffix, container):
    shards.encode(other_tokenizer, named(10), tmp_path / "other", container=container, **OPTIONS)
    for ending in (suffix, "json"):
        shutil.copy(tmp_path / "other" / f"shard-000001.{ending}", out)
    assert "belongs to another run" in only_problem(out)
    with pytest.raises(ShardError, match="another run"):
        shards.open(out)


def test_shards_that_changed_places_are_found(out, suffix):
    first, second = (out / f"shard-00000{i}.{suffix}" for i in (0, 1))
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    assert len(shards.verify(out).problems) == 3


@pytest.mark.parametrize("change", [{"codebook_size": 4000}, {"dim": 7}, {"topology": "1d"}])
def test_a_spec_that_was_edited_is_found_and_not_opened(out, change):
    spec = json.loads((out / "spec.json").read_text())
    spec["streams"][0].update(change)
    (out / "spec.json").write_text(json.dumps(spec))
    assert "spec.json is not the spec of this run: spec_sha256" in only_problem(out)
    with pytest.raises(ShardError, match=r"spec\.json is not the spec of this run: .* encode again"):
        shards.open(out)


@pytest.mark.parametrize("name", ["/etc/shard-000001.arrow", "../shard-000001.arrow"])
def test_a_record_may_not_name_a_file_elsewhere(out, name):
    record = json.loads((out / "shard-000001.json").read_text())
    (out / "shard-000001.json").write_text(json.dumps({**record, "file": name}))
    assert "is not the name of a file beside it" in only_problem(out)
    with pytest.raises(ShardError, match="is not the name of a file beside it"):
        shards.open(out)


def test_a_spec_with_another_name_is_the_same(out):
    spec = json.loads((out / "spec.json").read_text())
    (out / "spec.json").write_text(json.dumps({**spec, "name": "renamed", "metrics": []}))
    assert shards.verify(out).ok
    assert len(shards.open(out)) == 10


def test_a_plan_of_other_keys_is_found_and_answers_no_key(out):
    plan = json.loads((out / "plan.json").read_text())
    plan["keys"] = [f"other_{i:04d}" for i in range(10)]
    (out / "plan.json").write_text(json.dumps(plan))
    assert "plan.keys_sha256" in only_problem(out, full=False)
    with pytest.raises(ShardError, match=r"plan\.json is not the plan of this run: its keys"):
        shards.open(out)["other_0001"]


@pytest.mark.parametrize("name", ["plan.json", "spec.json", "fingerprint.json"])
@pytest.mark.parametrize("text", [None, "", "{}", "[]", "{"])
def test_a_missing_or_damaged_description_is_found(out, name, text):
    (out / name).unlink() if text is None else (out / name).write_text(text)
    assert name in only_problem(out)
    if name != "plan.json":
        with pytest.raises(ShardError):
            shards.open(out)


def test_a_plan_with_another_key_is_found(out):
    path = out / "plan.json"
    path.write_text(path.read_text().replace("image_0009", "image_0099"))
    assert "plan.keys_sha256" in only_problem(out)


@pytest.mark.parametrize("text", [None, "", "{}", "\udcff"])
def test_a_missing_or_damaged_index_is_found_and_rebuilt(out, tokenizer, text, container):
    path = out / "index.json"
    before = path.read_bytes()
    path.unlink() if text is None else path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "index.json" in only_problem(out)
    shards.encode(tokenizer, named(10), out, container=container, **OPTIONS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["nothing", "file"])
def test_a_path_without_shards_is_a_shard_error(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    for call in (shards.verify, shards.open):
        with pytest.raises(ShardError, match="not a directory of token shards"):
            call(path)
