import numpy as np
import pytest

from tests.shards.exports.conftest import discrete, random_tokens, write_shards
from vistok import shards
from vistok.errors import ShardError
from vistok.shards.exports.source import Images, Source


def source_of(folder):
    dataset = shards.open(folder)
    return Source(dataset, dataset.spec.streams)


def test_views_of_an_image_come_together_whatever_lies_between_them(tmp_path):
    # a space and a bang sort before the mark
    keys = ["cat", "cat 1", "cat!", "cat#b", "cat#a", "cat#flip", "cat 1#flip"]
    fields = {k: {"source": k.split("#")[0], "view": k.split("#")[1]} for k in keys if "#" in k}
    made = write_shards(tmp_path / "made", {key: [[1]] for key in keys}, discrete(), fields, shard_size=2)
    images = Images(source_of(made), "all", "x")
    assert len(images) == 3
    assert [[s.key for s in views] for views in images] == [
        ["cat", "cat#a", "cat#b", "cat#flip"],
        ["cat 1", "cat 1#flip"],
        ["cat!"],
    ]


def test_a_mark_in_a_key_makes_no_view(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1]], "a#flip": [[2]]}, discrete())
    assert [len(views) for views in Images(source_of(made), "all", "x")] == [1, 1]


@pytest.mark.parametrize("view", ["as-is", None])
def test_the_image_itself_may_say_that_it_is_no_view(tmp_path, view):
    fields = {"b#0": {"source": "b", "view": view}, "b#crop": {"source": "b", "view": "crop"}}
    made = write_shards(tmp_path / "made", {"b#0": [[1]], "b#crop": [[2]]}, discrete(), fields)
    (views,) = Images(source_of(made), "all", "x")
    assert [s.view for s in views] == ["", "crop"]
    ((only,),) = Images(source_of(made), "original", "x")
    assert only.key == "b#0"


def test_views_without_their_image_are_refused_where_it_is_asked_for(tmp_path):
    fields = {"b#crop": {"source": "b", "view": "crop"}}
    made = write_shards(tmp_path / "made", {"b#crop": [[2]]}, discrete(), fields)
    assert len(next(iter(Images(source_of(made), "all", "x")))) == 1
    with pytest.raises(ShardError, match="not the image that it is a view of"):
        list(Images(source_of(made), "original", "x"))


def test_the_same_view_twice_is_refused(tmp_path):
    fields = {key: {"source": "b", "view": "flip"} for key in ("b#1", "b#2")}
    made = write_shards(tmp_path / "made", {"b#1": [[2]], "b#2": [[2]]}, discrete(), fields)
    with pytest.raises(ShardError, match="the same view of 'b#1'"):
        list(Images(source_of(made), "all", "x"))


@pytest.mark.parametrize(
    ("field", "told"),
    [({"label": "cat"}, "label 'cat', which is not an integer"), ({"caption": 3}, "not text")],
)
def test_fields_of_the_wrong_type_are_refused_by_the_name_of_the_sample(tmp_path, field, told):
    made = write_shards(tmp_path / "made", {"a": [[1]]}, discrete(), {"a": field})
    with pytest.raises(ShardError, match=told):
        list(source_of(made))


def test_samples_are_streamed_in_the_order_of_the_shards_and_counted(tmp_path):
    arrays = random_tokens(groups=2)
    source = source_of(write_shards(tmp_path / "made", arrays, discrete(num_groups=2)))
    for sample, key in zip(source, sorted(arrays), strict=True):
        assert sample.key == key and np.array_equal(sample.tokens, arrays[key])
    assert (source.num_samples, source.num_tokens) == (7, 7 * 16 * 2)
