import ast
import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data import Buckets, ImageFiles, ImageFolder, Procedural, Views, with_views
from vistok.errors import DataError, ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.preprocess import fit_image, to_tensor


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def photo(tmp_path):
    """One image of 70 x 50 pixels, opened by a policy."""
    picture(70, 50).save(tmp_path / "cat.png")
    return lambda policy=None, m=1: ImageFiles([tmp_path / "cat.png"], policy=policy, multiple_of=m)


def views_of(dataset, name, **options):
    return list(Views(dataset, name, **options))


def test_keys_fields_and_order_name_source_and_view():
    dataset = Procedural(2, 16)
    first, second = dataset.keys()
    views = Views(dataset, "flip")
    assert views.keys() == [f"{first}#as-is", f"{first}#flip", f"{second}#as-is", f"{second}#flip"]
    assert [(item["key"], item["source"], item["view"]) for item in views][1:3] == [
        (f"{first}#flip", first, "flip"),
        (f"{second}#as-is", second, "as-is"),
    ]
    assert Views(dataset, "ten-crop").keys()[3] == f"{first}#crop-03"
    for name in ("flip", "ten-crop", "random-100"):
        assert Views(dataset, name).names == sorted(Views(dataset, name).names)


def test_flip_mirrors_left_to_right(photo):
    plain, mirrored = views_of(photo(m=16), "flip")
    assert torch.equal(plain["image"], photo(m=16)[0]["image"])
    assert torch.equal(mirrored["image"], plain["image"].flip(-1))


def test_ten_crop_is_that_of_torchvision_on_the_image_at_eleven_tenths(photo):
    from torchvision.transforms import TenCrop

    policy = ImagePolicy(size=(20, 30))
    larger = fit_image(picture(70, 50), ImagePolicy(size=(22, 33)))
    expected = [to_tensor(crop) for crop in TenCrop((20, 30))(larger)]
    found = views_of(photo(policy), "ten-crop")
    assert len(found) == 10
    assert all(torch.equal(item["image"], crop) for item, crop in zip(found, expected, strict=True))


def test_ten_crop_without_a_size_takes_the_pixels_of_the_image(photo):
    found = views_of(photo(m=8), "ten-crop")
    assert {tuple(item["image"].shape) for item in found} == {(3, 40, 56)}
    whole = to_tensor(picture(70, 50))
    assert torch.equal(found[0]["image"], whole[:, :40, :56])
    assert torch.equal(found[3]["image"], whole[:, -40:, -56:])
    assert torch.equal(found[5]["image"], whole.flip(-1)[:, :40, :56])


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (16, 16), (17, 17), (20000, 1)])
@pytest.mark.parametrize("views", ["flip", "ten-crop", "random-2"])
def test_images_of_every_size_have_views_on_multiples(tmp_path, size, views):
    picture(*size).save(tmp_path / "a.png")
    for policy in (None, ImagePolicy(size=(32, 48)), ImagePolicy(size=(32, 48), fit="pad")):
        dataset = Views(ImageFiles([tmp_path / "a.png"], policy=policy, multiple_of=16), views)
        height, width = dataset[1]["image"].shape[1:]
        assert height % 16 == 0 and width % 16 == 0 and min(height, width) >= 16
        assert policy is None or (height, width) == policy.size


def test_a_policy_that_refuses_refuses_what_crops_would_resize(photo):
    with pytest.raises(ImageError, match="fit='refuse'"):
        views_of(photo(ImagePolicy(size=(20, 30), fit="refuse")), "ten-crop")


def test_random_crops_are_regions_of_at_least_half_the_side_within_the_image(photo):
    ramp = np.zeros((50, 70, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(70) * 3, np.arange(50)[:, None] * 5
    dataset = photo(ImagePolicy(size=(40, 40)))
    Image.fromarray(ramp).save(dataset.source(0))
    corners = set()
    for item in views_of(dataset, "random-30"):
        red, green = ((item["image"][c] + 1) * 127.5 for c in (0, 1))
        span_x, span_y = (red[:, -1] - red[:, 0]).mean() / 3, (green[-1] - green[0]).mean() / 5
        assert 22 <= span_x <= 51 and abs(span_x - span_y) < 3
        corners.add((round(float(red[0, 0])), round(float(green[0, 0]))))
    assert len(corners) > 20


def test_random_crops_depend_on_seed_key_and_view_alone(tmp_path):
    for name in ("a.png", "b.png"):
        picture(70, 50).save(tmp_path / name)
    policy = ImagePolicy(size=(16, 16))

    def crops(names, **options):
        return {item["key"]: item["image"] for item in Views(ImageFiles(names, policy=policy), **options)}

    both = crops([tmp_path / "a.png", tmp_path / "b.png"], views="random-3", seed=5)
    alone = crops([tmp_path / "b.png"], views="random-5", seed=5)
    assert all(torch.equal(both[f"b.png#crop-0{i}"], alone[f"b.png#crop-0{i}"]) for i in range(3))
    other = crops([tmp_path / "b.png"], views="random-3", seed=6)
    assert not any(torch.equal(other[key], both[key]) for key in other)
    assert not torch.equal(both["a.png#crop-00"], both["b.png#crop-00"])
    assert len({image.numpy().tobytes() for image in both.values()}) == 6


def test_another_process_draws_the_same_views_in_any_order():
    here = Views(Procedural(2, 24), "random-3", 7)
    program = (
        "import hashlib; from vistok.data import Procedural, Views;"
        "views = Views(Procedural(2, 24), 'random-3', 7);"
        "print([hashlib.sha256(views[i]['image'].numpy().tobytes()).hexdigest() for i in reversed(range(6))])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for dataset in (here, pickle.loads(pickle.dumps(here))):
        hashes = [hashlib.sha256(dataset[i]["image"].numpy().tobytes()).hexdigest() for i in range(6)]
        assert ast.literal_eval(told) == hashes[::-1]


def test_views_of_buckets_have_the_size_of_their_image(tmp_path):
    picture(120, 60).save(tmp_path / "wide.png")
    picture(60, 120).save(tmp_path / "high.png")
    for views in ("flip", "ten-crop", "random-3"):
        dataset = ImageFolder(tmp_path, multiple_of=16).bucketed(Buckets(64 * 64))
        for viewed in (
            Views(dataset, views),
            Views(ImageFolder(tmp_path, multiple_of=16), views).bucketed(Buckets(64 * 64)),
        ):
            shapes = {(item["source"], tuple(item["image"].shape[1:])) for item in viewed}
            assert shapes == {("wide.png", (48, 80)), ("high.png", (80, 48))}, views


def test_labels_and_captions_travel_with_every_view(tmp_path):
    (tmp_path / "n01").mkdir()
    picture(20, 20).save(tmp_path / "n01" / "a.png")
    (tmp_path / "n01" / "a.txt").write_text("noise")
    items = views_of(ImageFolder(tmp_path, labels=True, multiple_of=4), "ten-crop")
    assert {(item["label"], item["caption"], item["source"]) for item in items} == {(0, "noise", "n01/a.png")}


def test_a_key_that_looks_like_a_view_does_not_collide(tmp_path):
    for name in ("a.png", "a.png#flip.png"):
        picture(8, 8).save(tmp_path / name)
    keys = Views(ImageFolder(tmp_path), "flip").keys()
    assert len(set(keys)) == 4 and "a.png#flip.png#flip" in keys


def test_an_image_is_read_once_for_all_its_views(photo, monkeypatch):
    dataset = photo(ImagePolicy(size=(16, 16)))
    reads = []
    original = ImageFiles.source
    monkeypatch.setattr(
        ImageFiles, "source", lambda self, index: reads.append(index) or original(self, index)
    )
    views_of(dataset, "ten-crop")
    assert reads == [0]


def test_fields_that_views_need_must_be_free(photo, monkeypatch):
    monkeypatch.setattr(ImageFiles, "extras", lambda self, index: {"view": "mine"})
    with pytest.raises(DataError, match=r"has a field 'view'.*rename"):
        views_of(photo(), "flip")


@pytest.mark.parametrize(
    "views",
    [
        "",
        "flips",
        "random",
        "random-0",
        "random-101",
        "random-x",
        "random--1",
        "random-99999",
        "random-0100999",
        "10",
    ],
)
def test_unknown_views_are_refused_with_the_choice(views):
    with pytest.raises(DataError, match="choose flip, ten-crop, or random-K"):
        with_views(Procedural(1, 8), views)


def test_no_views_are_the_dataset_itself_and_seeds_are_not_negative():
    dataset = Procedural(1, 8)
    assert with_views(dataset, "none") is dataset
    with pytest.raises(DataError, match="negative"):
        with_views(dataset, "random-2", -1)
