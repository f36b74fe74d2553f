"""Weights that follow the gradients, so that one loss does not drown another."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from vistok.errors import RecipeError
from vistok.tokenizer import Tokenizer


def adaptive_weight(reconstruction_loss: Tensor, other_loss: Tensor, layer: Tensor) -> Tensor:
    """The ratio of two losses' gradient norms at one layer, by which the other loss is multiplied to be as strong.

    |grad of reconstruction_loss| / (|grad of other_loss| + 1e-4), at most 1e4, detached. Collective where a process
    group exists: gradients are averaged over all processes before their norms are taken, so that the weight is that of
    the whole batch at any number of processes (taming-transformers takes the ratio of each process's part).

    Source: Esser et al., Taming Transformers for High-Resolution Image Synthesis (2020), arXiv:2012.09841, equation 7,
    for the generator's loss at the decoder's last layer; Yao et al., Reconstruction vs. Generation (2025),
    arXiv:2501.01423, section 3.2, for an alignment at the encoder's last layer, there bounded by 1e8.

    Args:
        reconstruction_loss: Weighted sum of the losses on pixels, scalar; its graph is kept.
        other_loss: Scalar; its graph is kept.
        layer: The weight where the two are compared.
    """
    gradients = [
        torch.autograd.grad(loss, layer, retain_graph=True)[0].float().flatten()
        for loss in (reconstruction_loss, other_loss)
    ]
    reconstruction_norm, other_norm = mean_over_processes(torch.stack(gradients)).norm(dim=1)
    ratio = reconstruction_norm / (other_norm + 1e-4)
    weight: Tensor = ratio.clamp(0.0, 1e4).detach()
    return weight


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes, the same on each; the values themselves where there is no process group.

    Collective.

    Shapes:
        values of any shape -> the same shape.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def encoder_layer(tokenizer: Tokenizer) -> Tensor:
    """The last matrix or convolution between image and quantizer that is trained: what the latents come out of.

    Raises:
        RecipeError: encoder and projection are frozen.
    """
    parts = (tokenizer.encoder, tokenizer.project_in)
    layers = [w for part in parts for w in part.parameters() if w.requires_grad and w.ndim > 1]
    if not layers:
        raise RecipeError(
            "an adaptive weight compares gradients at the encoder's last layer, and the encoder is frozen: "
            "set adaptive: false"
        )
    return layers[-1]
