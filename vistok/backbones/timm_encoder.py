"""Any network of timm as an encoder, a teacher or a source of perceptual features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vistok.backbones.base import Encoder, require_multiple
from vistok.backbones.weights import create_timm_model
from vistok.errors import TokenizerError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


class TimmEncoder(Encoder):
    """The features of a timm network at one layer: SigLIP, DINOv2, CLIP, EfficientNet and others.

    Images come in [-1, 1], as everywhere, and are normalised here to what the network was trained on. Layers past the
    tap are dropped, the classifier too; the last layer of a transformer is taken after the final normalisation.

    A frozen encoder stays in evaluation mode and its weights never have gradients. Gradients do flow through it to
    the image where that asks for them, so the same class serves as encoder, as teacher and in perceptual losses.

    Args:
        name: What timm calls the network, ``"vit_base_patch16_siglip_256"`` say.
        weights: The initial ones. None: random. ``"timm"``: timm's download. ``"efficientnet-lite0"``: those in
            the pip package, for ``name="tf_efficientnet_lite0"``. Else the path of a .safetensors or .pth file. Not
            saved with a tokenizer, which holds the weights themselves.
        layer: Which feature map: a block of a transformer, a stage of a convolutional network; -1 is the last.
        frozen: Never train it.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / factor, W / factor, dim); both numbers follow from network and layer.

    Raises:
        TokenizerError: an unknown network, a layer that it does not have, or weights that are missing or do not fit.
        ImageError: H or W not a multiple of the factor.
    """

    not_saved: ClassVar[frozenset[str]] = frozenset({"weights"})
    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, weights: str | None = None, layer: int = -1, frozen: bool = True) -> None:
        super().__init__()
        model: Any = _create(name, weights)
        taps = model.feature_info
        self.num_layers = len(taps)
        if not -self.num_layers <= layer < self.num_layers:
            raise TokenizerError(f"{name} has layers 0 to {self.num_layers - 1}, not {layer}")
        self.layer = layer % self.num_layers
        model.prune_intermediate_layers([self.layer], prune_norm=not self._is_last, prune_head=True)
        self.model = model
        self.layer_dims = tuple(int(tap["num_chs"]) for tap in taps)
        self.dim, self.factor = self.layer_dims[self.layer], int(taps[self.layer]["reduction"])
        mean, std = _channels(model.pretrained_cfg["mean"]), _channels(model.pretrained_cfg["std"])
        # ((x + 1) / 2 - mean) / std; not in the state dict, since the name decides it
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.eval()

    @property
    def _is_last(self) -> bool:
        return self.layer == self.num_layers - 1

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except on a frozen encoder."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        require_multiple(image, self.factor)
        return self.intermediates(image, [self.layer])[0]

    def intermediates(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The features at several layers, none of them past the encoder's own, in one pass.

        Where the encoder's own layer is a transformer's last, the final normalisation is applied to all of them.

        Shapes:
            image (B, 3, H, W) -> one (B, h, w, C) a layer, in the order of the network.
        """
        features: list[Tensor] = self.model.forward_intermediates(
            image * self.scale + self.shift,
            indices=[layer % self.num_layers for layer in layers],
            norm=self._is_last,
            stop_early=True,
            intermediates_only=True,
        )
        return [feature.permute(0, 2, 3, 1).contiguous() for feature in features]


def _create(name: str, weights: str | None) -> nn.Module:
    try:  # transformers otherwise accept the size of their training images alone
        model = create_timm_model(name, weights, dynamic_img_size=True)
    except TypeError:
        model = create_timm_model(name, weights)
    if not hasattr(model, "forward_intermediates"):
        raise TokenizerError(f"timm's {name} does not give its feature maps: choose another network")
    return model


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
