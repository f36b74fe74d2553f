"""Distances between images in the features of a pretrained network: what a loss trains on and an evaluation reports."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistok.backbones.timm_encoder import TimmEncoder
from vistok.backbones.weights import LITE0, LITE0_WEIGHTS
from vistok.errors import ImageError, RecipeError, TokenizerError

# trunk of each lpips backend: its name there, and the file that torchvision downloads
LPIPS_TRUNKS = {"lpips": ("vgg", "vgg16-397923af.pth"), "lpips-alex": ("alex", "alexnet-owt-7be5be79.pth")}
SMALLEST = {"lpips": 16, "lpips-alex": 31}
MAX_LAYERS = 5


def perceptual_distance(backend: str) -> nn.Module:
    """A network that gives one distance per image: (B, 3, H, W) twice, in [-1, 1] -> (B,), 0 for equal images.

    Args:
        backend: ``lpips`` (VGG-16), ``lpips-alex``, ``efficientnet-lite0`` (weights from a pip package, so offline), or
            any timm model name (downloaded by timm).

    Raises:
        RecipeError: an unknown backend, or weights that are neither on this machine nor downloadable.
    """
    return LPIPSDistance(backend) if backend in LPIPS_TRUNKS else FeatureDistance(backend)


class FeatureDistance(nn.Module):
    """LPIPS without learned layer weights, in the features of any timm model.

    Each of up to five layers is normalised to unit length over its channels; squared differences are summed over
    channels, averaged over positions, then over layers: in [0, 4].

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018),
    arXiv:1801.03924, section 3, with uniform weights; the mean over layers (there: the sum) keeps its size independent of
    their number.

    Args:
        name: ``efficientnet-lite0``, or any timm model name.

    Shapes:
        image, reconstruction (B, 3, H, W) in [-1, 1] -> (B,).

    Raises:
        RecipeError: no such model, or weights that cannot be had.
    """

    def __init__(self, name: str = LITE0_WEIGHTS) -> None:
        super().__init__()
        self.name = name
        try:
            if name == LITE0_WEIGHTS:
                self.encoder = TimmEncoder(LITE0, weights=LITE0_WEIGHTS)
            else:
                self.encoder = TimmEncoder(name, weights="timm")
        except TokenizerError as error:
            choices = ", ".join((LITE0_WEIGHTS, *LPIPS_TRUNKS))
            raise RecipeError(f"perceptual network {name!r}: {error} (others: {choices})") from error
        count = min(self.encoder.num_layers, MAX_LAYERS)
        self.chosen = torch.linspace(0, self.encoder.num_layers - 1, count).round().long().tolist()

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """One distance per image."""
        layers = zip(self.layers(image), self.layers(reconstruction), strict=True)
        return torch.stack([_unit_difference(a, b).sum(1).mean((1, 2)) for a, b in layers]).mean(0)

    def layers(self, image: Tensor) -> list[Tensor]:
        """The compared layers, first to last: (B, 3, H, W) -> up to five of (B, C, h, w)."""
        return [features.movedim(-1, 1) for features in self.encoder.intermediates(image, self.chosen)]


class LPIPSDistance(nn.Module):
    """LPIPS version 0.1 with the learned layer weights that the ``lpips`` package ships.

    Equal to ``lpips.LPIPS`` but for the gradient where a position has all channels 0: there it is 0, not NaN.

    Source: Zhang et al. (2018), arXiv:1801.03924.

    Args:
        backend: ``lpips`` for the VGG-16 trunk, ``lpips-alex`` for AlexNet. Torchvision downloads the trunk once.

    Shapes:
        image, reconstruction (B, 3, H, W) in [-1, 1] -> (B,). The sides need 16 pixels (``lpips``), 31 (``lpips-alex``).

    Raises:
        RecipeError: the trunk is neither in torch hub's folder nor downloadable, or its file is damaged.
        ImageError: images below the smallest size.
    """

    def __init__(self, backend: str = "lpips") -> None:
        super().__init__()
        self.name = backend
        self.net: Any = _load_lpips(*LPIPS_TRUNKS[backend])

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """One distance per image."""
        height, width = image.shape[-2:]
        if min(height, width) < SMALLEST[self.name]:
            raise ImageError(
                f"images of {height} x {width} pixels are too small for {self.name}, which needs {SMALLEST[self.name]}"
            )
        scale, trunk = self.net.scaling_layer, self.net.net
        layers = zip(self.net.lins, trunk(scale(image)), trunk(scale(reconstruction)), strict=True)
        return torch.stack([head(_unit_difference(a, b)).mean((1, 2, 3)) for head, a, b in layers]).sum(0)


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    """Squared difference of channel-normalised features, (B, C, h, w), in float32."""
    # the epsilon lies inside the root: outside, as in the lpips package, a position of zeros has a NaN gradient
    a, b = (x.float() * (x.float().square().sum(1, keepdim=True) + 1e-10).rsqrt() for x in (a, b))
    return (a - b).square()


def _load_lpips(net: str, file: str) -> nn.Module:
    import lpips

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips uses torchvision's deprecated `pretrained`
            loaded: nn.Module = lpips.LPIPS(net=net, verbose=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        state = "cannot be read" if (folder / file).is_file() else "is not here and cannot be downloaded"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"{file}, the weights of lpips, {state} ({reason}): put the file from https://download.pytorch.org/models/{file} "
            f"into {folder}, or choose efficientnet-lite0, which needs no download"
        ) from error
    return loaded.eval()
