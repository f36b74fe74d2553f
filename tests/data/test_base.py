"""What every dataset promises, checked on each kind."""

import pickle
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vistok.data import ImageFolder, Photos, Procedural, RandomCrops, Tiles
from vistok.errors import DataError
from vistok.spec import ImagePolicy

KINDS = ["folder", "photos", "procedural", "tiles"]


@pytest.fixture
def dataset(request, tmp_path):
    if request.param == "folder":
        for name in ("b.png", "a.png"):
            Image.new("RGB", (33, 20), (name[0] == "a" and "red") or "blue").save(tmp_path / name)
        return ImageFolder(tmp_path, multiple_of=16)
    if request.param == "photos":
        pytest.importorskip("skimage")
        return Photos("held_out", policy=ImagePolicy(size=(32, 32)), multiple_of=16)
    if request.param == "procedural":
        return Procedural(3, 32, multiple_of=16)
    return Tiles(Procedural(2, 40), 16)


@pytest.mark.parametrize("dataset", KINDS, indirect=True)
def test_items_have_an_image_and_their_key(dataset):
    assert len(dataset) == len(dataset.keys()) == len(set(dataset.keys())) > 0
    for index, key in enumerate(dataset.keys()):
        item = dataset[index]
        image = item["image"]
        assert item["key"] == key
        assert image.dtype == torch.float32 and image.shape[0] == 3 and image.abs().max() <= 1
        assert image.shape[1] % 16 == 0 and image.shape[2] % 16 == 0
        assert dataset.read(index).mode == "RGB"
        assert dataset.pil(key).tobytes() == dataset.read(index).tobytes()


@pytest.mark.parametrize("dataset", KINDS, indirect=True)
def test_indices_behave_as_those_of_a_list(dataset):
    assert dataset[-1]["key"] == dataset.keys()[-1]
    assert len(list(dataset)) == len(dataset)
    for outside in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[outside]
        with pytest.raises(IndexError):
            dataset.read(outside)
    with pytest.raises(DataError, match="no image 'nothing'"):
        dataset.pil("nothing")


@pytest.mark.parametrize("dataset", KINDS, indirect=True)
def test_a_pickled_copy_gives_the_same_items(dataset):
    _ = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.keys() == dataset.keys() and torch.equal(copy[0]["image"], dataset[0]["image"])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_what_the_main_process_gives(context):
    crops = RandomCrops(Procedural(3, 40), 16)
    positions = [[0, 1, 2], [3, 4, 5]]
    here = list(DataLoader(crops, batch_sampler=positions))
    there = list(DataLoader(crops, batch_sampler=positions, num_workers=2, multiprocessing_context=context))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a["image"], b["image"]) and a["key"] == b["key"]


def test_importing_data_loads_nothing_heavy():
    code = (
        "import sys, vistok.data; heavy = {'webdataset', 'skimage', 'sklearn', 'lightning', 'wandb', 'timm', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
