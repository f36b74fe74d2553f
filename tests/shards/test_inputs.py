"""Input of every kind, good and bad, from the disk to token shards: what is whole is encoded, the rest is explained."""

import io
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.shards.conftest import build_tokenizer, tree
from vistok import shards
from vistok.cli import main
from vistok.data import Buckets, Fields, ImageFolder, Views, WebDatasetImages, open_images
from vistok.errors import DataError, ShardError
from vistok.spec import ImagePolicy
from vistok.tokenizer import load

OPTIONS = {"batch_size": 4, "shard_size": 8, "progress": False}
SKIP = {**OPTIONS, "on_error": "skip", "max_error_rate": 1.0}


def photo(width=24, height=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def bad_files():
    """Files that cannot be encoded, by name, with a word of the reason."""
    whole = encoded(photo(64, 64), "JPEG")
    crc = bytearray(encoded(photo()))
    crc[crc.index(b"IDAT") + 9] ^= 1
    huge = encoded(Image.new("1", (1, 1)))
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + huge[24:29]
    huge = huge[:12] + header + struct.pack(">I", zlib.crc32(header)) + huge[33:]
    return {
        "corrupt.jpg": (whole[:200] + bytes(400) + whole[600:900], "damaged"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "crc.png": (bytes(crc), "damaged"),
        "text.jpg": (b"this is no image", "known format"),
        "empty.png": (b"", "known format"),
        "nan.tiff": (encoded(Image.fromarray(np.full((16, 16), np.nan, np.float32)), "TIFF"), "NaN"),
        "bomb.png": (huge, "too large"),
    }


def good_files():
    grey16 = Image.fromarray(np.full((16, 16), 40000, np.uint16))
    frames = [photo(seed=i) for i in range(2)]
    exif = Image.Exif()
    exif[274] = 6
    return {
        "alpha.png": encoded(photo().convert("RGBA")),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bit.png": encoded(Image.new("1", (16, 16), 1)),
        "cmyk.jpg": encoded(photo().convert("CMYK"), "JPEG"),
        "float.tiff": encoded(Image.fromarray(np.full((16, 16), 0.5, np.float32)), "TIFF"),
        "grey16.png": encoded(grey16),
        "one.png": encoded(photo(1, 1)),
        "palette.png": encoded(photo().convert("P")),
        "rotated.jpg": encoded(photo(24, 16), "JPEG", exif=exif),
        "thin.png": encoded(photo(1, 30)),
        "wide.png": encoded(photo(2000, 1)),
    }


@pytest.fixture
def mixed(tmp_path):
    """A folder and a tar with the same good and bad images."""
    bad, good = bad_files(), good_files()
    files = {**{name: data for name, (data, _) in bad.items()}, **good}
    (tmp_path / "folder").mkdir()
    with tarfile.open(tmp_path / "mixed.tar", "w") as archive:
        for name, data in files.items():
            (tmp_path / "folder" / name).write_bytes(data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    os.mkfifo(tmp_path / "folder" / "fifo.png")
    (tmp_path / "folder" / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder" / "loop").symlink_to(tmp_path / "folder")
    return tmp_path


def test_what_cannot_be_read_is_skipped_with_its_reason_and_the_rest_is_encoded(tokenizer, mixed):
    bad, good = bad_files(), good_files()
    reasons = {name: word for name, (_, word) in bad.items()} | {
        "fifo.png": "regular file",
        "loop.png": "opened",
    }
    summary = shards.encode(tokenizer, ImageFolder(mixed / "folder"), mixed / "out", **SKIP)
    tokens = shards.open(mixed / "out", tokenizer)
    assert set(tokens.skipped) == set(reasons) and tokens.keys() == sorted(good)
    for name, word in reasons.items():
        assert word in tokens.skipped[name] and "\n" not in tokens.skipped[name]
    assert summary.num_images == summary.num_encoded + summary.num_skipped == len(good) + len(reasons)
    assert tokens["rotated.jpg"]["size"] == (24, 16) and tokens["thin.png"]["size"] == (240, 8)
    assert shards.verify(mixed / "out").ok


def test_a_tar_gives_the_tokens_of_the_files_in_it(tokenizer, mixed):
    shards.encode(tokenizer, ImageFolder(mixed / "folder"), mixed / "a", **SKIP)
    shards.encode(tokenizer, WebDatasetImages(mixed / "mixed.tar"), mixed / "b", **SKIP)
    files, members = shards.open(mixed / "a"), shards.open(mixed / "b")
    assert len(files) == len(members) == len(good_files())
    for item in files:
        assert torch.equal(item["indices"], members[item["key"].split(".")[0]]["indices"])
    assert not any(key.startswith("link") for key in [*members.keys(), *members.skipped])


def test_a_truncated_tar_is_an_error_before_anything_is_written(tokenizer, mixed):
    data = (mixed / "mixed.tar").read_bytes()
    (mixed / "mixed.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"mixed\.tar' is damaged or truncated"):
        shards.encode(tokenizer, WebDatasetImages(mixed / "mixed.tar"), mixed / "out", **SKIP)
    assert not (mixed / "out").exists()


def test_files_that_vanish_or_change_between_plan_and_read_are_explained(tokenizer, tmp_path):
    for name in "abc":
        photo().save(tmp_path / f"{name}.png")
    dataset = ImageFolder(tmp_path)
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-30])
    shards.encode(tokenizer, dataset, tmp_path / "out", **SKIP)
    tokens = shards.open(tmp_path / "out")
    assert tokens.keys() == ["a.png"]
    assert "does not exist" in tokens.skipped["b.png"] and "damaged" in tokens.skipped["c.png"]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_rows_of_tables_that_cannot_be_read_are_skipped(tokenizer, tmp_path, form):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = {**{name: data for name, (data, _) in bad_files().items()}, **good_files()}
    table = pa.table({"image": list(files.values()), "id": list(files), "n": list(range(len(files)))})
    if form == "parquet":
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=5)
    else:
        with pa.ipc.new_stream(str(tmp_path / "t.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    images = open_images(tmp_path / f"t.{form}", fields=Fields.parse("key=id,n"))
    for workers in (0, 2):
        shards.encode(tokenizer, images, tmp_path / str(workers), workers=workers, **SKIP)
    assert tree(tmp_path / "0") == tree(tmp_path / "2")
    tokens = shards.open(tmp_path / "0")
    assert tokens.keys() == sorted(good_files()) and set(tokens.skipped) == set(bad_files())
    assert all(item["n"] == list(files).index(item["key"]) for item in tokens)


@pytest.mark.parametrize("views", ["flip", "ten-crop", "random-3"])
def test_views_are_samples_of_their_own_with_any_number_of_workers(tokenizer, tmp_path, views):
    for i in range(3):
        photo(40, 30, seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "1.txt").write_text("noise")
    dataset = Views(ImageFolder(tmp_path), views, seed=3)
    for workers in (0, 2):
        shards.encode(tokenizer, dataset, tmp_path / f"out{workers}", workers=workers, **OPTIONS)
    assert tree(tmp_path / "out0") == tree(tmp_path / "out2")
    tokens = shards.open(tmp_path / "out0")
    assert tokens.keys() == sorted(dataset.keys())
    item = tokens[f"1.png#{dataset.names[1]}"]
    assert (item["source"], item["view"], item["caption"]) == ("1.png", dataset.names[1], "noise")
    pixels = dataset.fitted_to(tokenizer.spec)[len(dataset.names) + 1]["image"]
    assert torch.equal(item["indices"], tokenizer.encode(pixels[None]).indices[0])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: Views(d, "flip"), r"data\.views"),
        (lambda d: Views(d, "random-2", seed=2), r"data\.seed was 1 and is 2"),
        (lambda d: Views(d.bucketed(Buckets(1024)), "random-2", seed=1), r"data\.buckets\.area"),
    ],
)
def test_other_views_seeds_and_buckets_are_refused_by_name(tokenizer, tmp_path, change, field):
    # one colour: the first image does not tell the difference
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    folder = ImageFolder(tmp_path)
    shards.encode(tokenizer, Views(folder, "random-2", seed=1), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=field):
        shards.encode(tokenizer, change(folder), tmp_path / "out", **OPTIONS)


def test_other_fields_are_refused_by_name(tokenizer, tmp_path):
    (tmp_path / "dog").mkdir()
    photo().save(tmp_path / "dog" / "a.png")
    shards.encode(tokenizer, ImageFolder(tmp_path), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"data\.fields\.label was null and is \"label\" now"):
        shards.encode(tokenizer, ImageFolder(tmp_path, labels=True), tmp_path / "out", **OPTIONS)


def test_buckets_go_through_encode_and_decode_with_several_grids(tmp_path, capsys):
    build_tokenizer(image=ImagePolicy(size=(32, 32))).save(tmp_path / "tokenizer")
    (tmp_path / "images").mkdir()
    shapes = {"a": (200, 200), "b": (300, 100), "c": (100, 290), "d": (40, 40), "e": (1000, 10)}
    for seed, (name, (width, height)) in enumerate(shapes.items()):
        photo(width, height, seed).save(tmp_path / "images" / f"{name}.png")
    command = [
        "encode",
        "--tokenizer",
        tmp_path / "tokenizer",
        "--data",
        tmp_path / "images",
        "--out",
        tmp_path / "out",
    ]
    assert main([str(part) for part in [*command, "--buckets", "64x64,8,4", "--views", "flip"]]) == 0
    sizes = {item["key"]: item["size"] for item in shards.open(tmp_path / "out")}
    expected = {"a": (64, 64), "b": (40, 96), "c": (96, 40), "d": (64, 64), "e": (32, 128)}
    assert {key[0]: size for key, size in sizes.items()} == expected
    assert all(h * w <= 64 * 64 for h, w in sizes.values())
    command = [
        "decode",
        "--tokenizer",
        tmp_path / "tokenizer",
        "--shards",
        tmp_path / "out",
        "--out",
        tmp_path / "png",
    ]
    assert main([str(part) for part in command]) == 0
    tokenizer = load(tmp_path / "tokenizer").eval()
    dataset = ImageFolder(tmp_path / "images").bucketed(Buckets(4096, 8)).fitted_to(tokenizer.spec)
    with torch.inference_mode():
        for index, name in enumerate(sorted(shapes)):
            direct = tokenizer.decode(tokenizer.encode(dataset[index]["image"][None]))[0]
            written = np.asarray(Image.open(tmp_path / "png" / f"{name}.png%23as-is.png")).astype(int)
            assert np.abs(written - ((direct + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--views", "nine"], "choose flip"),
        (["--seed", "3"], "--seed means nothing to --views none"),
        (["--seed", "0", "--views", "flip"], "--seed means nothing to --views flip"),
        (["--buckets", "64x64,12"], "demands multiples of 8"),
        (["--buckets", "big"], "write AREA"),
        (["--fields", "widht"], "no 'widht'"),
        (["--fields", "view"], "rename it"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_leave_nothing(tmp_path, capsys, options, reason):
    build_tokenizer().save(tmp_path / "tokenizer")
    photo().save(tmp_path / "a.png")
    command = ["encode", "--tokenizer", tmp_path / "tokenizer", "--data", tmp_path, "--out", tmp_path / "out"]
    assert main([str(part) for part in [*command, *options]]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("vistok: error: ") and reason in told
    assert not (tmp_path / "out").exists()


def test_a_list_with_labels_is_encoded_under_its_paths(tokenizer, tmp_path):
    for name in ("a.png", "b.png"):
        photo().save(tmp_path / name)
    lines = [
        {"path": "b.png", "label": 1, "tags": ["x"]},
        {"path": "../" + tmp_path.name + "/a.png", "caption": "c"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    images = open_images(tmp_path / "list.jsonl", fields=Fields.parse("tags"))
    shards.encode(tokenizer, images, tmp_path / "out", **OPTIONS)
    tokens = shards.open(tmp_path / "out")
    assert tokens["b.png"]["label"] == 1 and tokens["b.png"]["tags"] == ["x"]
    assert tokens[f"../{tmp_path.name}/a.png"]["caption"] == "c"


def test_a_row_of_20000_pixels_is_enlarged_to_what_the_tokenizer_takes_and_encoded(tokenizer, tmp_path):
    photo(20000, 1).save(tmp_path / "row.png")
    photo(1, 20000).save(tmp_path / "column.png")
    shards.encode(tokenizer, ImageFolder(tmp_path), tmp_path / "out", **OPTIONS)
    assert shards.verify(tmp_path / "out").ok
    sizes = {item["key"]: item["size"] for item in shards.open(tmp_path / "out")}
    assert sizes == {"row.png": (8, 160000), "column.png": (160000, 8)}
