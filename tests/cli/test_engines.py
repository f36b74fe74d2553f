import json
import shutil

import pytest

from tests.shards.conftest import build_tokenizer, tree
from vistok.cli import main
from vistok.data import Procedural


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    build_tokenizer().save(folder)
    return str(folder)


def encode(tokenizer, out, *options):
    common = ["--data", "procedural:10:16", "--shard-size", "4", "--batch-size", "2", "--device", "cpu"]
    return main(["encode", "--tokenizer", tokenizer, "--out", str(out), *common, *options])


def test_the_summary_as_json(tokenizer, tmp_path, capsys):
    assert encode(tokenizer, tmp_path / "out", "--json", "--precision", "bfloat16", "--workers", "0") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_images"], told["num_shards"], told["num_skipped"]) == (10, 3, 0)
    assert told["images_per_second"] > 0


def test_jobs_of_an_array_make_what_one_run_makes(tokenizer, tmp_path):
    assert encode(tokenizer, tmp_path / "whole") == 0
    for index in "01":
        assert encode(tokenizer, tmp_path / "out", "--num-shards", "2", "--shard-index", index) == 0
    names = [name for name in tree(tmp_path / "whole") if not name.startswith(".")]
    assert all(tree(tmp_path / "out")[name] == tree(tmp_path / "whole")[name] for name in names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--num-shards", "2", "--shard-index", "2"), "job 2 of 2 does not exist"),
        (("--num-actors", "2"), "--num-actors is an option of --engine ray"),
        (("--batch-size", "most"), "'most' is not an integer"),
        (("--max-error-rate", "1.5"), "'1.5' is not a share in [0, 1]"),
        (("--gpus-per-actor", "1.5"), "neither a share of a GPU"),
    ],
)
def test_wrong_options_are_told_in_one_line(tokenizer, tmp_path, capsys, options, said):
    assert encode(tokenizer, tmp_path / "out", *options) in (1, 2)
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_share_of_the_images_may_fail(tokenizer, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(4):
        Procedural(4, 16).read(index).save(images / f"{index}.png")
    (images / "1.png").write_bytes(b"no image")
    common = ["encode", "--tokenizer", tokenizer, "--data", str(images), "--device", "cpu", "--workers", "0"]
    assert main([*common, "--out", str(tmp_path / "raise")]) == 1
    assert "(--on-error skip) leaves such images out" in capsys.readouterr().err
    skipping = [*common, "--out", str(tmp_path / "skip"), "--on-error", "skip"]
    assert main(skipping) == 1
    assert "(--max-error-rate) allows" in capsys.readouterr().err
    assert main([*skipping, "--max-error-rate", "0.25"]) == 0


def test_a_device_without_memory_is_refused(tokenizer, tmp_path, capsys):
    assert encode(tokenizer, tmp_path / "out", "--device", "meta") == 1
    told = capsys.readouterr().err
    assert "'meta'" in told and told.count("\n") == 1


def test_a_run_that_goes_on_reads_what_is_there_if_asked(tokenizer, tmp_path, capsys):
    assert encode(tokenizer, tmp_path / "whole") == 0
    out = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    path = out / "shard-000001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (out / "shard-000002.json").unlink()
    capsys.readouterr()
    assert encode(tokenizer, out, "--verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_shards_new"] == 2
    assert tree(out) == tree(tmp_path / "whole")
    assert encode(tokenizer, out, "--verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_shards_new"] == 0


def test_repair_makes_what_is_damaged_again(tokenizer, tmp_path, capsys):
    assert encode(tokenizer, tmp_path / "whole") == 0
    out = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (out / "shard-000001.arrow").write_bytes(b"")
    assert main(["verify", str(out)]) == 1
    arguments = [str(out), "--tokenizer", tokenizer, "--data", "procedural:10:16", "--device", "cpu"]
    assert main(["repair", *arguments]) == 0
    assert "1 of 3 shards made again" in capsys.readouterr().out
    assert tree(out) == tree(tmp_path / "whole")
    assert main(["repair", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_remade"] == 0
