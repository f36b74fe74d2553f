import datetime
import decimal
import io
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from vistok.data import Fields, TableImages, arrow_rows, open_images, parquet_rows
from vistok.errors import DataError, ImageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(value=0, side=8):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def red(item):
    return round(float((item["image"][0, 0, 0] + 1) * 127.5))


def rows(count, start=0, **more):
    return [
        {"image": {"bytes": png(i), "path": f"{i}.png"}, "label": i % 3, "caption": f"image {i}", **more}
        for i in range(start, start + count)
    ]


def write(path, rows, form="parquet", batch=4):
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        pq.write_table(table, path, row_group_size=batch)
        return path
    make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


FORMS = {"parquet": ".parquet", "stream": ".arrow", "file": ".arrow"}


@pytest.mark.parametrize("form", FORMS)
def test_images_labels_and_captions_are_read_by_row_in_any_order(tmp_path, form):
    path = write(tmp_path / f"t{FORMS[form]}", rows(11), form)
    images = open_images(path)
    assert isinstance(images, TableImages) and images.keys() == [f"t/{i:09d}" for i in range(11)]
    order = list(range(11)) * 3
    random.Random(0).shuffle(order)
    for i in order:
        assert (red(images[i]), images.extras(i)) == (i, {"label": i % 3, "caption": f"image {i}"})


@pytest.mark.parametrize("form", FORMS)
def test_copies_for_workers_read_the_same(tmp_path, form):
    images = TableImages(write(tmp_path / f"t{FORMS[form]}", rows(9), form))
    assert red(images[8]) == 8
    loader = DataLoader(images, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [red(item) for item in loader] == list(range(9))
    assert [red(item) for item in pickle.loads(pickle.dumps(images))] == list(range(9))


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_a_column_of_bytes_is_taken_too(tmp_path, kind):
    table = pa.table({"jpg": pa.array([png(3)], getattr(pa, kind)()), "width": [8]})
    images = TableImages(write(tmp_path / "t.parquet", table), fields=Fields.parse("width"))
    assert red(images[0]) == 3 and images.extras(0) == {"width": 8}


def test_a_saved_dataset_of_hugging_face_is_read_as_it_lies(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "mask": datasets.Value("binary"),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    columns = {"photo": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(7)], "mask": [b""] * 7}
    made = datasets.Dataset.from_dict({**columns, "label": [i % 2 for i in range(7)]}, features=features)
    made.save_to_disk(tmp_path / "saved", num_shards=2)
    images = open_images(tmp_path / "saved")
    assert images.keys()[4:] == [f"data-00001-of-00002/00000000{i}" for i in range(3)]
    assert [(red(item), item["label"]) for item in images] == [(i, i % 2) for i in range(7)]
    made.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    images = open_images(tmp_path / "hub")
    assert images.keys()[6] == "data/train-00000-of-00001/000000006" and red(images[6]) == 6
    datasets.DatasetDict(train=made, test=made).save_to_disk(tmp_path / "splits")
    with pytest.raises(
        DataError, match=r"holds the splits test, train: give one of them, such as .*splits/test"
    ):
        open_images(tmp_path / "splits")
    assert len(open_images(tmp_path / "splits" / "test")) == 7


def test_folders_brace_lists_and_lists_name_the_same_rows(tmp_path):
    paths = [write(tmp_path / "d" / f"s-{i}.parquet", rows(3, 3 * i)) for i in range(2)]
    expected = [f"s-{i}/00000000{j}" for i in range(2) for j in range(3)]
    for images in (
        open_images(tmp_path / "d"),
        open_images(str(tmp_path / "d" / "s-{0..1}.parquet")),
        TableImages(paths),
    ):
        assert images.keys() == expected
        assert [red(item) for item in images] == list(range(6))
    assert TableImages([paths[0], write(tmp_path / "e" / "s-0.parquet", rows(1))]).keys()[2:] == [
        "d/s-0/000000002",
        "e/s-0/000000000",
    ]
    with pytest.raises(DataError, match="listed twice"):
        TableImages([paths[0], paths[0]])


def test_keys_may_come_from_a_column_and_must_differ(tmp_path):
    path = write(
        tmp_path / "a.parquet", [{"image": png(i), "id": key} for i, key in enumerate(["b/../x\n", "a.b.c"])]
    )
    images = TableImages(path, fields=Fields.parse("key=id"))
    assert images.keys() == ["b/../x\n", "a.b.c"] and red(images[1]) == 1 and images.extras(1) == {}
    other = write(tmp_path / "b.parquet", [{"image": png(), "id": "a.b.c"}])
    with pytest.raises(
        DataError, match=r"'a\.b\.c' is in row 1 of '.*a\.parquet' and again in row 0 of '.*b\.parquet'"
    ):
        TableImages([path, other], fields=Fields.parse("key=id"))
    numbers = write(tmp_path / "n.arrow", [{"image": png(), "id": 7}, {"image": png(), "id": 7}], "stream")
    with pytest.raises(DataError, match="key '7'"):
        TableImages(numbers, fields=Fields.parse("key=id"))
    for bad, told in ((None, "nothing"), (0.5, "a float")):
        path = write(
            tmp_path / "c.parquet", pa.table({"image": [png()], "id": pa.array([bad], pa.float64())})
        )
        with pytest.raises(DataError, match=f"row 0 of .* has {told} in the key column"):
            TableImages(path, fields=Fields.parse("key=id"))


def test_fields_become_what_json_has_and_missing_ones_are_left_out(tmp_path):
    values = {
        "n": None, "nan": float("nan"), "day": datetime.date(2026, 1, 2), "price": decimal.Decimal("1.50"),
        "deep": {"a": [1.5, float("inf")], "b": None}, "ok": True,
    }  # fmt: skip
    images = TableImages(
        write(tmp_path / "t.parquet", rows(1, **values)),
        fields=Fields.parse("n,nan,day,price,deep,ok,text=caption"),
    )
    assert images.extras(0) == {
        "day": "2026-01-02", "price": "1.50", "deep": {"a": [1.5, None], "b": None}, "ok": True, "label": 0, "text": "image 0",
    }  # fmt: skip


def test_a_row_without_bytes_is_read_from_its_path(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.png").write_bytes(png(9))
    table = pa.Table.from_pylist(
        [
            {"image": {"bytes": None, "path": "x.png"}},
            {"image": {"bytes": None, "path": None}},
            {"image": None},
        ],
        pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]),
    )
    images = TableImages(write(tmp_path / "d" / "t.parquet", table))
    assert red(images[0]) == 9
    for index in (1, 2):
        with pytest.raises(ImageError, match=f"t/00000000{index} has no image, its row is empty"):
            images[index]


@pytest.mark.parametrize(
    ("columns", "fields", "reason"),
    [
        ({"label": [1], "url": ["x"]}, "", "no column of images, its columns are label, url"),
        ({"a": [b""], "b": [b""]}, "", r"several columns .*\(a, b\): say which with --fields image=a"),
        ({"a": [b""], "b": [1]}, "image=b", "column 'b' .* does not hold images.*choose among a"),
        ({"a": [b""], "b": [b""]}, "image=a,b", "column 'b' .* holds bytes"),
        ({"a": [b""]}, "width", "has no 'width' to choose as a field: there is a"),
        ({"a": pa.array([], pa.binary())}, "", "have no rows"),
    ],
)
def test_tables_that_do_not_say_what_they_hold_are_refused_with_a_remedy(tmp_path, columns, fields, reason):
    path = write(tmp_path / "t.parquet", pa.table(columns))
    with pytest.raises(DataError, match=reason):
        TableImages(path, fields=Fields.parse(fields))


def test_files_of_two_tables_are_refused(tmp_path):
    paths = [write(tmp_path / "a.parquet", rows(1)), write(tmp_path / "b.parquet", [{"image": png()}])]
    with pytest.raises(DataError, match=r"b\.parquet' and '.*a\.parquet' differ in column 'caption'"):
        TableImages(paths)


def test_folders_that_are_unclear_are_refused(tmp_path):
    write(tmp_path / "a.parquet", rows(1))
    (tmp_path / "x.png").write_bytes(png())
    with pytest.raises(DataError, match="both tables and images"):
        open_images(tmp_path)
    (tmp_path / "x.png").unlink()
    write(tmp_path / "deep" / "b.arrow", rows(1), "file")
    with pytest.raises(DataError, match=r"both \*\.parquet and \*\.arrow"):
        open_images(tmp_path)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "../a.parquet"}]}')
    with pytest.raises(DataError, match="names files outside its folder"):
        open_images(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json' is damaged"):
        open_images(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_every_cut_is_noticed(tmp_path, form):
    path = write(tmp_path / f"t{FORMS[form]}", rows(6), form, batch=2)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cannot be read|cut short") as caught:
            TableImages(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_damage_lets_only_data_and_image_errors_out(tmp_path, form):
    path = write(tmp_path / f"t{FORMS[form]}", rows(6), form, batch=2)
    whole, dice = path.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            images = TableImages(path)
            for index in range(min(len(images), 8)):
                images.read(index), images.extras(index)
        except (DataError, ImageError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_changes_or_vanishes_is_noticed(tmp_path, form):
    path = write(tmp_path / f"t{FORMS[form]}", rows(600), form, batch=2)
    images = TableImages(path)
    assert red(images[0]) == 0
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="has changed since it was opened"):
        images[255]
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        images[255]


def test_a_compressed_arrow_file_is_refused_with_a_remedy(tmp_path):
    table = pa.Table.from_pylist(rows(3))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(DataError, match=r"is compressed.*or as Parquet"):
        TableImages(tmp_path / "t.arrow")


def test_open_files_are_bounded(tmp_path):
    paths = [write(tmp_path / f"{i:03d}.arrow", rows(2, 2 * i), "stream") for i in range(20)]
    paths_parquet = [write(tmp_path / f"{i:03d}.parquet", rows(2, 2 * i)) for i in range(20)]
    before = _num_open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_rows, "MAX_MAPPED", 3)
        for files in (paths, paths_parquet):
            images = TableImages(files)
            assert [red(images[i]) for i in range(39, -1, -1)] == list(range(39, -1, -1))
            assert _num_open() - before <= 3 + parquet_rows.MAX_DECODING
            assert len(arrow_rows._mapped) <= 3


def _num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_row_group_larger_than_the_cache_is_read_in_bounded_memory(tmp_path, monkeypatch):
    """One row group of 120 MB, in a process that may keep 16 MB of it."""
    data = np.random.default_rng(0).integers(0, 256, (480, 250_000), dtype=np.uint8)
    table = pa.table({"image": [row.tobytes() for row in data]})
    pq.write_table(
        table, tmp_path / "t.parquet", row_group_size=480, use_dictionary=False, write_batch_size=16
    )
    del table
    monkeypatch.setattr(parquet_rows, "CACHE_BYTES", 16 << 20)
    monkeypatch.setattr(parquet_rows, "BATCH_BYTES", 16 << 20)
    parquet_rows._cache.clear()
    images = TableImages(tmp_path / "t.parquet")
    before = pa.total_allocated_bytes()
    for i in [*range(0, 480, 7), 3, 470, 100]:
        assert images.source(i)[0] == data[i, 0]
        assert pa.total_allocated_bytes() - before < 64 << 20


def test_rows_behind_damage_are_told_at_once(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"image": [os.urandom(3000) for _ in range(64)]})
    pq.write_table(
        table, path, data_page_size=20_000, use_dictionary=False, write_batch_size=1, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[100_000:100_400] = os.urandom(400)
    path.write_bytes(data)
    images = TableImages(path)
    images._files[0]._batch_rows = [1]
    readable = 0
    for i in range(64):
        try:
            images.source(i)
            readable += 1
        except DataError as error:
            assert f"row {readable} of" in str(error)
    assert 0 < readable < 64


@pytest.mark.parametrize("fields", ["n", "key=n", ""])
def test_two_columns_of_one_name_are_told_where_they_are_chosen(tmp_path, fields):
    name = "n" if fields else "label"
    column = pa.array([png(i) for i in range(2)])
    table = pa.Table.from_arrays([column, pa.array([1, 2]), pa.array([3, 4])], names=["image", name, name])
    with pytest.raises(DataError, match=f"several columns '{name}': rename all but one"):
        TableImages(write(tmp_path / "a.parquet", table), fields=Fields.parse(fields))
