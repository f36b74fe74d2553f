import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from PIL import Image

from tests.shards.conftest import build_tokenizer, named
from vistok.data import Buckets, Fields, ImageFolder, PathList
from vistok.quantizers import Gaussian
from vistok.shards import encode, verify
from vistok.shards import open as open_shards
from vistok.shards.arrow_columns import fits
from vistok.spec import ImagePolicy


def key(number):
    return f"image_{number:04d}"


RAGGED = {
    "one image of another size": {"sizes": {key(5): (8, 16)}},
    "captions only later": {"fields": {key(i): {"caption": f"no. {i}"} for i in (5, 9)}},
    "labels of two types": {"fields": {key(i): {"label": i if i < 6 else f"class {i}"} for i in range(12)}},
    "integers, then floats": {"fields": {key(i): {"score": 1 if i < 4 else i / 2} for i in range(12)}},
    "null and absent": {"fields": {key(i): {"label": None} if i < 4 else {"label": i} for i in range(9)}},
    "lists and objects": {"fields": {key(0): {"box": [1, 2]}, key(7): {"box": {"left": 1}}}},
    "a shard of nothing": {"broken": {key(i): ValueError("not an image") for i in range(4, 8)}},
    "huge integers": {"fields": {key(0): {"label": 1 << 70}, key(5): {"label": 3}}},
}


def columns_by_reader(files, cache):
    """Columns and number of rows as each reader of Arrow files gives them."""
    polars, datasets = pytest.importorskip("polars"), pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    tables = [pa.ipc.open_file(file).read_all() for file in files]
    found = [
        pyarrow.dataset.dataset(files, format="ipc").to_table(),
        pa.concat_tables(tables),
        polars.scan_ipc(files).collect(),
        datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(cache)),
    ]
    return [
        (list(table.column_names if hasattr(table, "column_names") else table.columns), len(table))
        for table in found
    ]


@pytest.mark.parametrize("container", ["arrow", "arrow-packed"])
@pytest.mark.parametrize("case", RAGGED)
def test_other_readers_take_all_shards_as_one_table(tmp_path, tokenizer, case, container):
    images = named(12, **RAGGED[case])
    summary = encode(
        tokenizer, images, tmp_path / "o", shard_size=4, container=container, on_error="skip",
        max_error_rate=1, progress=False,
    )  # fmt: skip
    files = sorted(str(path) for path in (tmp_path / "o").glob("*.arrow"))
    found = columns_by_reader(files, tmp_path / "cache")
    assert len({tuple(columns) for columns, _ in found}) == 1
    assert {"key", "pixel", "height", "width", "label", "caption"} <= set(found[0][0])
    assert {rows for _, rows in found} == {12 - len(RAGGED[case].get("broken", ()))}
    assert summary.num_shards == 3
    # and what vistok reads is what the dataset said
    own = {"key", "size", "grid", "indices"}
    for item in open_shards(tmp_path / "o"):
        told = RAGGED[case].get("fields", {}).get(item["key"], {})
        assert {name: value for name, value in item.items() if name not in own} == told
        assert item["size"] == RAGGED[case].get("sizes", {}).get(item["key"], (16, 16))


def schemas(out):
    return [pa.ipc.open_file(str(path)).schema for path in sorted(out.glob("*.arrow"))]


def pictures(folder, sizes):
    folder.mkdir()
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("quantizer", [None, Gaussian(dim=4)])
def test_the_policy_and_the_buckets_decide_whether_lists_are_of_one_size(tmp_path, quantizer):
    model = build_tokenizer(quantizer)
    folder = pictures(tmp_path / "images", [(40, 40), (64, 24), (24, 64), (40, 40)])
    sized = ImageFolder(folder, policy=ImagePolicy(size=(16, 24)))
    encode(model, sized, tmp_path / "sized", shard_size=2, progress=False)
    for schema in schemas(tmp_path / "sized"):
        assert pa.types.is_fixed_size_list(schema.field("pixel").type)
        assert "height" not in schema.names
    buckets = ImageFolder(folder).bucketed(Buckets.parse("32x32,8"))
    encode(model, buckets, tmp_path / "buckets", shard_size=2, progress=False)
    first, second = schemas(tmp_path / "buckets")
    assert first.equals(second)
    assert pa.types.is_list(first.field("pixel").type)


def test_columns_come_from_what_the_dataset_offers_and_not_from_a_shard(tmp_path, tokenizer):
    folder = pictures(tmp_path / "images", [(16, 16)] * 6)
    rows = ["path,label,caption,score"] + [f"images/{i}.png,{i},{'a text' * (i > 3)},{i}" for i in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    images = PathList(tmp_path / "list.csv", fields=Fields.parse("score"))
    encode(tokenizer, images, tmp_path / "o", shard_size=2, progress=False)
    assert folder.is_dir()
    first, *others = schemas(tmp_path / "o")
    assert all(other.equals(first) for other in others)
    types = {name: str(first.field(name).type) for name in ("label", "caption", "score")}
    assert types == {"label": "int64", "caption": "string", "score": "string"}


@pytest.mark.parametrize("container", ["arrow", "arrow-packed"])
@pytest.mark.parametrize("kind", ["indices", "latents", "moments"])
def test_a_shard_without_samples_has_the_columns_of_the_others(tmp_path, kind, container):
    if kind != "indices" and container == "arrow-packed":
        pytest.skip("latents are not packed")
    model = build_tokenizer(None if kind == "indices" else Gaussian(dim=4))
    folder = pictures(tmp_path / "images", [(40, 40)] * 6)
    for number in (2, 3):
        (folder / f"{number}.png").write_text("no image")
    images = ImageFolder(folder, policy=ImagePolicy(size=(16, 24)))
    encode(
        model, images, tmp_path / "o", shard_size=2, on_error="skip", max_error_rate=1, container=container,
        moments=kind == "moments", progress=False,
    )  # fmt: skip
    first, *others = schemas(tmp_path / "o")
    assert pa.types.is_fixed_size_list(first.field("pixel").type)
    assert all(other.equals(first) for other in others)
    assert verify(tmp_path / "o").ok
    assert len(list(open_shards(tmp_path / "o").stream(batch_size=3))) == 2


@pytest.mark.parametrize("size", [None, (16, 16)])
def test_a_field_named_as_a_side_of_the_image_is_not_taken_for_it(tmp_path, tokenizer, size):
    pictures(tmp_path / "images", [(16, 16)] * 2)
    (tmp_path / "list.jsonl").write_text(
        "".join(f'{{"path": "images/{i}.png", "width": {900 + i}}}\n' for i in range(2))
    )
    images = PathList(
        tmp_path / "list.jsonl", ImagePolicy(size=size), multiple_of=8, fields=Fields.parse("width")
    )
    encode(tokenizer, images, tmp_path / "o", progress=False)
    table = pa.ipc.open_file(str(tmp_path / "o" / "shard-000000.arrow")).read_all()
    assert table["width"].to_pylist() == ([16, 16] if size is None else [900, 901])
    assert [(item["width"], item["size"]) for item in open_shards(tmp_path / "o")] == [
        (900, (16, 16)),
        (901, (16, 16)),
    ]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, "int64", False),
        (True, "bool", True),
        (1 << 63, "int64", False),
        (3, "double", True),
        ((1 << 53) + 1, "double", False),
        ("\ud800", "string", False),
        (["a"], "list<item: string>", True),
        (["a", None], "list<item: string>", False),
        (None, "string", False),
    ],
)
def test_a_column_takes_what_it_gives_back_unchanged(value, kind, expected):
    assert fits(value, kind) is expected
