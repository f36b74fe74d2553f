import io
import json
import pickle
import tarfile

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vistok.data import Fields, WebDatasetImages
from vistok.errors import DataError, ImageError


def picture(value=0, suffix="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, suffix)
    return stream.getvalue()


def write(path, members):
    """Members are (name, bytes), or TarInfo for links and devices."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def red(item):
    return round(float((item["image"][0, 0, 0] + 1) * 127.5))


def test_samples_are_joined_by_key_with_label_and_caption(tmp_path):
    shard = write(
        tmp_path / "a.tar",
        [("x.cls", b"7"), ("x.png", picture(1)), ("x.txt", "a café".encode()), ("y.png", picture(2)),
         ("y.json", json.dumps({"label": 3, "caption": "two", "more": [1]}).encode())],
    )  # fmt: skip
    dataset = WebDatasetImages(shard)
    assert dataset.keys() == ["x", "y"]
    assert [red(dataset[i]) for i in range(2)] == [1, 2]
    assert dataset.extras(0) == {"label": 7, "caption": "a café"}
    assert dataset.extras(1) == {"label": 3, "caption": "two"}


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    names = ["v1.0/a.b.PNG", "b.png", "dir/.hidden.png", "nodot", "__meta__/x.png"]
    dataset = WebDatasetImages(write(tmp_path / "a.tar", [(n, picture()) for n in names]), image_field=None)
    assert dataset.keys() == ["v1.0/a", "b"]
    with pytest.raises(ImageError, match=r"'v1\.0/a' has no image, its members are b\.png"):
        dataset.read(0)
    assert WebDatasetImages(tmp_path / "a.tar", image_field="b.png").read(0).size == (8, 8)


def test_keys_agree_with_those_of_webdataset(tmp_path):
    import webdataset

    names = [
        "a.png",
        "d/b.png",
        "d.e/c.png",
        "../up.png",
        "./dot.png",
        "sp ace.png",
        "/abs.png",
        "x/__m__/y.png",
        "n\nl.png",
    ]
    shard = write(tmp_path / "a.tar", [(n, picture()) for n in names])
    theirs = [s["__key__"] for s in webdataset.WebDataset(str(shard), shardshuffle=False)]
    assert WebDatasetImages(shard).keys() == theirs


def test_members_that_are_not_adjacent_are_joined_but_not_streamed(tmp_path):
    shard = write(tmp_path / "a.tar", [("x.txt", b"one"), ("y.png", picture(2)), ("x.png", picture(1))])
    dataset = WebDatasetImages(shard)
    assert dataset.keys() == ["x", "y"] and dataset[0]["caption"] == "one" and red(dataset[0]) == 1
    with pytest.raises(DataError, match="not adjacent"):
        dataset.stream()


def test_a_member_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'x\.png' twice"):
        WebDatasetImages(write(tmp_path / "a.tar", [("x.png", picture()), ("x.png", picture())]))


def test_a_key_in_two_shards_needs_prefixes(tmp_path):
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, [("0.png", picture(ord(name[0])))])
    with pytest.raises(DataError, match="prefix_keys=True"):
        WebDatasetImages(tmp_path)
    dataset = WebDatasetImages(tmp_path, prefix_keys=True)
    assert dataset.keys() == ["a/0", "b/0"] and red(dataset[1]) == ord("b")
    assert [item["key"] for item in dataset.stream()] == ["a/0", "b/0"]


def test_links_and_devices_are_left_out(tmp_path):
    members = [("x.png", picture(1))]
    for kind, name in [
        (tarfile.SYMTYPE, "s.png"),
        (tarfile.LNKTYPE, "h.png"),
        (tarfile.CHRTYPE, "d.png"),
        (tarfile.DIRTYPE, "e.png"),
    ]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        members.append(info)
    assert WebDatasetImages(write(tmp_path / "a.tar", members)).keys() == ["x"]


def test_every_cut_that_loses_data_is_noticed(tmp_path):
    shard = write(tmp_path / "a.tar", [(f"{i}.png", picture(i)) for i in range(4)])
    whole = shard.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    for size in [*range(0, end, 256), end]:
        shard.write_bytes(whole[:size])
        with pytest.raises(DataError, match="damaged or truncated"):
            WebDatasetImages(shard)
    shard.write_bytes(whole[: end + 512])
    assert len(WebDatasetImages(shard)) == 4


def test_a_damaged_header_is_noticed(tmp_path):
    shard = write(tmp_path / "a.tar", [(f"{i}.png", picture(i)) for i in range(3)])
    data = bytearray(shard.read_bytes())
    data[data.index(b"1.png")] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged or truncated"):
        WebDatasetImages(shard)


def test_shards_that_are_no_tars_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        WebDatasetImages(tmp_path / "gone.tar")
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x.png"))
    with pytest.raises(DataError, match=r"compressed.*decompress"):
        WebDatasetImages(tmp_path / "a.tar")
    with pytest.raises(DataError, match="no samples"):
        WebDatasetImages(write(tmp_path / "b.tar", []))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*\.tar"):
        WebDatasetImages(tmp_path / "empty")
    with pytest.raises(DataError, match="at least one"):
        WebDatasetImages([])


@pytest.mark.parametrize(
    "url", ["pipe:touch /tmp/never.tar", "https://example.com/a.tar", "s3://bucket/{0..2}.tar"]
)
def test_commands_and_urls_are_never_opened(url):
    with pytest.raises(DataError, match="not a local path"):
        WebDatasetImages(url)


def test_brace_lists_folders_and_lists_name_the_same_shards(tmp_path):
    paths = [write(tmp_path / f"s-{i:02d}.tar", [(f"k{i}.png", picture(i))]) for i in range(3)]
    expected = ["k0", "k1", "k2"]
    for shards in (
        str(tmp_path / "s-{00..02}.tar"),
        tmp_path,
        paths,
        [tmp_path / "s-00.tar", str(tmp_path / "s-{01..02}.tar")],
    ):
        assert WebDatasetImages(shards).keys() == expected
    with pytest.raises(DataError, match="listed twice"):
        WebDatasetImages([paths[0], paths[0]])
    with pytest.raises(DataError, match="s-03"):
        WebDatasetImages(str(tmp_path / "s-{00..03}.tar"))


def test_samples_without_or_with_several_images_say_so_when_read(tmp_path):
    dataset = WebDatasetImages(
        write(tmp_path / "a.tar", [("x.json", b"{}"), ("y.jpg", picture(0, "JPEG")), ("y.png", picture())])
    )
    assert len(dataset) == 2
    with pytest.raises(ImageError, match="'x' has no image, its members are json"):
        dataset[0]
    with pytest.raises(ImageError, match=r"several images \(jpg, png\).*image_field"):
        dataset[1]


@pytest.mark.parametrize(
    ("name", "data"), [("x.cls", b"dog"), ("x.json", b"{"), ("x.txt", b"\xff"), ("x.json", b"[" * 100000)]
)
def test_annotations_that_cannot_be_read_are_named(tmp_path, name, data):
    dataset = WebDatasetImages(write(tmp_path / "a.tar", [("x.png", picture()), (name, data)]))
    with pytest.raises(DataError, match=f"'{name[2:]}' of sample 'x'"):
        dataset[0]


def test_a_damaged_image_is_an_image_error(tmp_path):
    dataset = WebDatasetImages(write(tmp_path / "a.tar", [("x.png", picture()[:-16])]))
    with pytest.raises(ImageError, match="x is damaged or truncated"):
        dataset[0]


def test_a_shard_that_shrinks_is_noticed(tmp_path):
    shard = write(tmp_path / "a.tar", [("x.png", picture())])
    dataset = WebDatasetImages(shard)
    shard.write_bytes(shard.read_bytes()[:520])
    with pytest.raises(DataError, match="has changed since it was indexed"):
        dataset[0]


def test_a_shard_that_is_written_anew_or_vanishes_is_noticed(tmp_path):
    shard = write(tmp_path / "a.tar", [("x.png", picture(1))])
    dataset = WebDatasetImages(shard)
    write(shard, [("y.txt", b"in front"), ("x.png", picture(2))])
    with pytest.raises(DataError, match="has changed since it was indexed"):
        dataset[0]
    shard.unlink()
    with pytest.raises(DataError, match="No such file"):
        dataset[0]


def test_keys_of_every_kind_survive(tmp_path):
    keys = [
        "v1.0/a", "with space", "caf\u00e9", "cafe\u0301", "Case", "case", "k" * 300, "d" * 90 + "/" + "e" * 200,
        "../up", "/abs", "new\nline", "tab\t", "#", "-rf",
    ]  # fmt: skip
    dataset = WebDatasetImages(
        write(tmp_path / "a.tar", [(f"{key}.png", picture(value)) for value, key in enumerate(keys)])
    )
    assert dataset.keys() == keys
    assert [red(item) for item in dataset] == list(range(len(keys)))


def test_chosen_fields_come_from_json_or_members_of_text(tmp_path):
    data = {"width": 8, "alt": "red", "label": 5, "score": None}
    shard = write(
        tmp_path / "a.tar",
        [("x.png", picture()), ("x.json", json.dumps(data).encode()), ("x.txt", b"a"), ("x.cls", b"2"), ("x.url", b"u"),
         ("y.png", picture())],
    )  # fmt: skip
    dataset = WebDatasetImages(shard, fields=Fields.parse("width,caption=alt,url,number=cls"))
    assert dataset.extras(0) == {"width": 8, "caption": "red", "url": "u", "number": 2, "label": 2}
    assert dataset.extras(1) == {}
    streamed = list(dataset.stream())
    assert {k: v for k, v in streamed[0].items() if k not in ("image", "key", "__key__")} == dataset.extras(0)
    with pytest.raises(DataError, match=r"none of the first 2 samples of .*a\.tar' has 'widht'"):
        WebDatasetImages(shard, fields=Fields.parse("widht"))
    with pytest.raises(DataError, match="leave out key=id"):
        WebDatasetImages(shard, fields=Fields.parse("key=id"))


def test_stream_and_index_give_the_same_items_also_in_workers(tmp_path):
    for i in range(4):
        write(tmp_path / f"{i}.tar", [(f"{i}{j}.png", picture(10 * i + j)) for j in range(3)])
    dataset = pickle.loads(pickle.dumps(WebDatasetImages(tmp_path)))
    by_key = {item["key"]: item for item in dataset}
    streamed = list(dataset.stream())
    assert [item["key"] for item in streamed] == dataset.keys()
    assert all(torch.equal(item["image"], by_key[item["key"]]["image"]) for item in streamed)
    for loader in (
        DataLoader(dataset, batch_size=None, num_workers=2),
        DataLoader(dataset.stream(shuffle_shards=10, seed=1), batch_size=None, num_workers=2),
    ):
        assert sorted(item["key"] for item in loader) == dataset.keys()


def test_ranks_share_the_shards_of_a_stream(tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / f"{i}.tar", [(f"{i}.png", picture())])
    dataset = WebDatasetImages(tmp_path)
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        seen.append([item["key"] for item in dataset.stream()])
    assert seen == [["0", "2"], ["1", "3"]]
