import numpy as np
import pytest

from tests.shards.exports.conftest import discrete, exported, labels, random_tokens, write_shards
from vistok.errors import ShardError
from vistok.shards.exports import LlamaGen, TokenNumbering


def with_views(tmp_path, views, groups=1, count=2):
    """Shards of images with views, and the indices by image and view."""
    draw = np.random.default_rng(3)
    arrays, fields = {}, {}
    for i in range(count):
        for view in views:
            key = f"{i}#{view}" if view else f"{i}"
            arrays[key] = draw.integers(100, size=(16, groups))
            fields[key] = {"label": 10 + i, "source": f"{i}", "view": view}
    return write_shards(tmp_path / "made", arrays, discrete(100, groups), fields), arrays


def load(folder, number):
    (codes,) = folder.glob("*_codes")
    (label,) = folder.glob("*_labels")
    return np.load(codes / f"{number}.npy"), np.load(label / f"{number}.npy")


def test_an_image_without_views_has_one(tokens_made, tmp_path):
    summary = exported(tokens_made, LlamaGen(), tmp_path / "out")
    assert (tmp_path / "out" / "imagenet16_codes").is_dir() and (
        tmp_path / "out" / "imagenet16_labels"
    ).is_dir()
    assert summary.num_files == 14 and "1281167" in summary.notes[0]
    for i, array in enumerate(random_tokens().values()):
        codes, label = load(tmp_path / "out", i)
        assert (codes.dtype, codes.shape, label.dtype) == (np.int64, (1, 1, 16), np.int64)
        assert np.array_equal(codes[0, 0], array[:, 0]) and label.tolist() == [i]


def test_views_stand_along_the_second_axis_the_image_first(tmp_path):
    crops = [f"crop_{i}" for i in range(10)]
    made, arrays = with_views(tmp_path, [*crops, ""])
    exported(made, LlamaGen(TokenNumbering(offset=5), dataset="photos", image_size=256), tmp_path / "out")
    codes, label = load(tmp_path / "out", 1)
    assert (tmp_path / "out" / "photos256_codes").is_dir()
    assert codes.shape == (1, 11, 16) and label.tolist() == [11]
    for place, key in enumerate(["1", *(f"1#{crop}" for crop in crops)]):
        assert np.array_equal(codes[0, place], arrays[key][:, 0] + 5)


def test_the_image_alone_is_written_on_demand(tmp_path):
    made, arrays = with_views(tmp_path, ["", "flip"])
    summary = exported(made, LlamaGen(views="original"), tmp_path / "out")
    assert summary.num_samples == 2
    assert np.array_equal(load(tmp_path / "out", 0)[0][0, 0], arrays["0"][:, 0])


def test_the_readers_condition_for_views_is_told(tmp_path):
    made, _ = with_views(tmp_path, ["", "flip"])
    assert any("'flip'" in note for note in exported(made, LlamaGen(), tmp_path / "out").notes)


def test_groups_have_an_axis_or_lie_in_one_row(tmp_path):
    made, arrays = with_views(tmp_path, [""], groups=8)
    with pytest.raises(ShardError, match="--group-order"):
        exported(made, LlamaGen(), tmp_path / "out")
    exported(made, LlamaGen(TokenNumbering(group_order="group")), tmp_path / "by_group")
    codes = load(tmp_path / "by_group", 0)[0]
    assert codes.shape == (1, 1, 8, 16) and np.array_equal(codes[0, 0], arrays["0"].T)
    exported(made, LlamaGen(TokenNumbering(group_order="position")), tmp_path / "by_position")
    codes = load(tmp_path / "by_position", 0)[0]
    assert codes.shape == (1, 1, 128) and np.array_equal(codes[0, 0].reshape(16, 8), arrays["0"])


def test_an_image_that_lacks_a_view_is_refused_by_name(tmp_path):
    fields = {key: {"label": 0, "source": key[0], "view": key[2:]} for key in ("a", "a#flip", "b")}
    made = write_shards(tmp_path / "made", {key: [[1]] for key in fields}, discrete(), fields)
    with pytest.raises(ShardError, match="of 'b' there is: itself; and of the first image: itself, flip"):
        exported(made, LlamaGen(), tmp_path / "out")


def test_sizes_that_name_no_folder_are_refused(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1]]}, discrete(), {"a": {"label": 0, "size": [8, 16]}})
    with pytest.raises(ShardError, match="8 x 16: give --image-size"):
        exported(made, LlamaGen(), tmp_path / "out")
    with pytest.raises(ShardError, match="cannot be part of a folder"):
        exported(made, LlamaGen(dataset="../x"), tmp_path / "out")
    exported(made, LlamaGen(image_size=8), tmp_path / "out")


def test_a_missing_label_is_refused_by_name_or_given(tmp_path):
    arrays = random_tokens(2)
    fields = labels(arrays)
    del fields["image_01"]
    made = write_shards(tmp_path / "made", arrays, discrete(), fields)
    with pytest.raises(ShardError, match="'image_01' has no label"):
        exported(made, LlamaGen(), tmp_path / "out")
    exported(made, LlamaGen(default_label=9), tmp_path / "out")
    assert load(tmp_path / "out", 1)[1].tolist() == [9]


def test_images_of_several_sizes_are_refused_by_name_or_their_numbers_of_tokens_told(tmp_path):
    fields = {"a": {"label": 0, "size": [8, 8]}, "b": {"label": 1, "size": [16, 16]}}
    made = write_shards(tmp_path / "made", {"a": [[1]], "b": [[1]] * 4}, discrete(), fields)
    with pytest.raises(
        ShardError, match=r"'b' has 16 x 16 pixels and the first image 8 x 8, .* --image-size"
    ):
        exported(made, LlamaGen(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    notes = exported(made, LlamaGen(image_size=16), tmp_path / "out").notes
    assert any("the images have 1 to 4 tokens" in note for note in notes)
