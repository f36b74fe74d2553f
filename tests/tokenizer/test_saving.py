import errno
import json
from pathlib import Path

import pytest
import torch

import vistok
from tests.tokenizer.test_tokenizer import images, make
from vistok import TokenizerError, VistokError


def test_a_save_that_fails_leaves_the_old_tokenizer_in_place(tmp_path, monkeypatch):
    old = make("vq")
    old.save(tmp_path / "t")
    rename = Path.rename
    for failing in (1, 2):
        calls = []

        def counted(self, target, failing=failing, calls=calls):
            calls.append(target)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", counted)
            with pytest.raises(TokenizerError, match="No space left"):
                make("fsq").save(tmp_path / "t")
        assert [p.name for p in tmp_path.iterdir()] == ["t"]
        assert vistok.load(tmp_path / "t").spec == old.spec


def test_a_save_killed_between_two_renames_is_told_where_the_old_one_lies(tmp_path):
    make().save(tmp_path / "t")
    (tmp_path / ".t.old.x").mkdir()
    (tmp_path / "t").rename(tmp_path / ".t.old.x" / "tokenizer")
    with pytest.raises(TokenizerError, match=r"\.t\.old\.x"):
        vistok.load(tmp_path / "t")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(TokenizerError, match="cannot be written"):
        make().save(tmp_path / "file" / "t")
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        make().save(tmp_path / "file")


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


def test_whatever_is_wrong_with_a_config_is_one_line_or_harmless(tmp_path):
    make("vq").save(tmp_path / "t")
    expected = vistok.load(tmp_path / "t").encode(images()).indices
    file = tmp_path / "t" / "config.json"
    config = json.loads(file.read_text())
    refused = 0
    for path in places(config):
        for wrong in (None, [], -1, "delete"):
            changed = json.loads(json.dumps(config))
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if not path:
                changed = wrong
            elif wrong == "delete":
                del holder[path[-1]]
            else:
                holder[path[-1]] = wrong
            file.write_text(json.dumps(changed))
            try:
                again = vistok.load(tmp_path / "t")
            except VistokError as error:
                assert "\n" not in str(error), (path, wrong)
                refused += 1
            else:  # an argument that its part does not mind, or a name
                assert torch.equal(again.encode(images()).indices, expected), (path, wrong)
    assert refused > 150
    for text in ("[" * 100_000, "NaN", "1e999", '"\\ud800"'):
        file.write_text(text)
        with pytest.raises(VistokError):
            vistok.load(tmp_path / "t")


def test_a_spec_that_is_not_that_of_the_model_is_refused_by_field(tmp_path):
    make("vq").save(tmp_path / "t")
    file = tmp_path / "t" / "config.json"
    config = json.loads(file.read_text())
    config["spec"]["streams"][0]["codebook_size"] = 64
    file.write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="streams"):
        vistok.load(tmp_path / "t")


def test_metrics_licence_and_provenance_come_back(tmp_path):
    tokenizer = make()
    tokenizer.metrics, tokenizer.licence = ({"psnr": 21.5, "protocol": "psnr/v1"},), "MIT"
    tokenizer.provenance = {"trained_steps": 3}
    tokenizer.save(tmp_path / "t")
    spec = vistok.load(tmp_path / "t").spec
    assert (spec.metrics[0]["psnr"], spec.licence, spec.provenance) == (21.5, "MIT", {"trained_steps": 3})


@pytest.mark.parametrize(
    ("argument", "value", "told"),
    [("channels", 10_000_000, "has shape"), ("num_res_blocks", 10_000_000, "more parts")],
)
def test_a_config_of_a_giant_model_is_refused_before_it_is_built(tmp_path, argument, value, told):
    make("vq").save(tmp_path / "t")
    file = tmp_path / "t" / "config.json"
    config = json.loads(file.read_text())
    config["model"]["args"]["encoder"]["args"][argument] = value
    file.write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=told):
        vistok.load(tmp_path / "t")
