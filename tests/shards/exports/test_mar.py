import zipfile

import numpy as np
import pytest
import torch
from torchvision.datasets import DatasetFolder

from tests.shards.conftest import build_tokenizer, named
from tests.shards.exports.conftest import continuous, exported, with_flips, write_shards
from vistok import shards
from vistok.errors import ShardError
from vistok.quantizers import Gaussian
from vistok.shards.exports import MAR


def read_back(folder):
    """Arrays and target of each file, as torchvision's DatasetFolder, which MAR's reader is, finds them."""

    def load(path):
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    return {
        path: (load(path), target)
        for path, target in DatasetFolder(folder, load, extensions=(".npz",)).samples
    }


def chw(array):
    return array.T.reshape(array.shape[1], 4, 4)


def test_the_reader_finds_moments_of_image_and_flip_and_the_label(latents_made, tmp_path):
    exported(latents_made, MAR(), tmp_path / "out")
    arrays, fields = with_flips()
    found = read_back(tmp_path / "out")
    assert len(found) == 5
    for key in (k for k in arrays if "#" not in k):
        path = tmp_path / "out" / f"{fields[key]['label']:06d}" / f"{key.replace('/', '%2F')}.npz"
        read, target = found[str(path)]
        assert target == fields[key]["label"]
        for name, view in (("moments", key), ("moments_flip", f"{key}#flip")):
            assert (read[name].dtype, read[name].shape) == (np.float32, (8, 4, 4))
            assert np.array_equal(read[name][:4], chw(arrays[view]))
            assert (read[name][4:] == -30).all()


def test_classes_may_keep_the_folders_of_the_keys(latents_made, tmp_path):
    exported(latents_made, MAR(classes="key"), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["class_0", "class_1"]
    assert (tmp_path / "out" / "class_0" / "image 0.npz").exists()


def test_the_tokenizers_shift_and_scale_are_undone_unless_they_are_wanted(tmp_path):
    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    spec = continuous(4, shift=(1.0, 2.0, 3.0, 4.0), scale=(0.5,))
    made = write_shards(tmp_path / "made", {"a": array}, spec, {"a": {"label": 0}})
    for normalised, mean in ((False, array / 0.5 + [1, 2, 3, 4]), (True, array)):
        out = tmp_path / f"out_{normalised}"
        exported(made, MAR(views="original", normalised=normalised, logvar=-20), out)
        with np.load(out / "000000" / "a.npz") as file:
            assert file.files == ["moments"]
            assert np.array_equal(file["moments"][:4], mean.T.reshape(4, 2, 2))
            assert (file["moments"][4:] == -20).all()


def test_a_missing_flip_is_refused_by_name(tmp_path):
    made = write_shards(tmp_path / "made", {"a": np.zeros((4, 4))}, continuous(), {"a": {"label": 0}})
    with pytest.raises(ShardError, match=r"of 'a' there is: itself; .*--views original"):
        exported(made, MAR(), tmp_path / "out")


def test_labels_with_gaps_are_refused_because_the_reader_would_number_them_anew(tmp_path):
    arrays = {"x/a": np.zeros((4, 4)), "y/b": np.zeros((4, 4))}
    made = write_shards(tmp_path / "made", arrays, continuous(), {"x/a": {"label": 0}, "y/b": {"label": 2}})
    with pytest.raises(ShardError, match="no image has label 1"):
        exported(made, MAR(views="original"), tmp_path / "out")
    exported(made, MAR(views="original", classes="key"), tmp_path / "out")


def test_two_images_of_one_name_are_refused(tmp_path):
    arrays = {"x/n/a": np.zeros((4, 4)), "y/n/a": np.zeros((4, 4))}
    made = write_shards(tmp_path / "made", arrays, continuous())
    with pytest.raises(ShardError, match=r"two images would be n/a\.npz"):
        exported(made, MAR(views="original", classes="key"), tmp_path / "out")


def test_a_key_without_a_folder_names_no_class(tmp_path):
    made = write_shards(tmp_path / "made", {"a": np.zeros((4, 4))}, continuous())
    with pytest.raises(ShardError, match="'a' names no folder"):
        exported(made, MAR(views="original", classes="key"), tmp_path / "out")


def test_latents_on_no_grid_are_refused(tmp_path):
    made = write_shards(tmp_path / "made", {"a": np.zeros((5, 4))}, continuous(), {"a": {"label": 0}})
    with pytest.raises(ShardError, match="on a grid"):
        exported(made, MAR(views="original"), tmp_path / "out")


def test_no_clock_goes_into_the_files(latents_made, tmp_path):
    exported(latents_made, MAR(), tmp_path / "out")
    with zipfile.ZipFile(next((tmp_path / "out").rglob("*.npz"))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_shards_with_moments_give_the_log_variance_of_each_latent(tmp_path):
    tokenizer = build_tokenizer(Gaussian(dim=4))
    tokenizer.normaliser.set([0.5, 0, -1, 2], [2.0, 1, 0.5, 4])
    images = [named(1)[0]["image"]]
    shards.encode(tokenizer, named(1), tmp_path / "made", moments=True, progress=False)
    with torch.inference_mode():
        latent = tokenizer.latents(torch.stack(images)).latent
        mean, deviation = tokenizer.quantizer.moments(latent)
    for normalised in (False, True):
        exported(
            tmp_path / "made",
            MAR(views="original", default_label=0, normalised=normalised),
            tmp_path / str(normalised),
        )
        (path,) = (tmp_path / str(normalised)).rglob("*.npz")
        scale = tokenizer.normaliser.scale if normalised else 1.0
        expected = 2 * (deviation * scale).log()[0].permute(2, 0, 1).numpy()
        with np.load(path) as file:
            assert np.allclose(file["moments"][4:], expected, atol=1e-4)
            if not normalised:
                assert np.allclose(file["moments"][:4], mean[0].permute(2, 0, 1).numpy(), atol=1e-4)
