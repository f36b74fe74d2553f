"""Continuous tokenizers as autoencoders of diffusers' pipelines.

Importing this module imports diffusers. A pipeline that was saved with an ``Autoencoder`` names this module in its
``model_index.json``, and ``from_pretrained`` finds it here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vistok.errors import TokenizerError
from vistok.recorded import build
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.saving import exported_classes

try:
    # a pipeline looks for ModelMixin beside the class that it loads
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
    from diffusers.models.modeling_utils import ModelMixin
except ImportError as error:
    raise ImportError(
        "vistok.integrations.diffusers needs diffusers: pip install 'vistok[diffusers]'"
    ) from error

__all__ = ["Autoencoder", "ModelMixin"]


class Autoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A continuous vistok tokenizer with the interface of diffusers' ``AutoencoderKL``.

    Latents are the tokenizer's normalised ones, channels first. So ``scaling_factor`` is 1 and ``shift_factor`` 0, and a
    pipeline that divides by the one and knows nothing of the other is right too.

    Make one with ``Autoencoder.from_tokenizer(vistok.load(...))``; ``save_pretrained`` and ``from_pretrained`` are
    diffusers' own. Encoding is without gradients; decoding has them towards latents that ask for them.

    Args:
        tokenizer_config: The tokenizer as JSON data, as ``Tokenizer.to_config`` gives it.
        block_out_channels: Its length says the factor, 2^(length - 1), to whoever asks diffusers' way; nothing else.
        latent_channels: D.
        scaling_factor: 1.
        shift_factor: 0.
        force_upcast: Whether pipelines should decode in float32.
        grid: (h, w) where latents are normalised per element of one grid.

    Raises:
        TokenizerError: a discrete tokenizer, one without a pixel decoder, or one whose factor is no power of 2.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        tokenizer_config: dict[str, Any],
        block_out_channels: tuple[int, ...] = (1,),
        latent_channels: int = 4,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        force_upcast: bool = False,
        grid: tuple[int, ...] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokenizer: Tokenizer = build(tokenizer_config, exported_classes())
        _check(self.tokenizer)
        if grid:  # as many elements as the weights hold, which overwrite them
            assert self.tokenizer.normaliser is not None
            self.tokenizer.normaliser.set(0.0, 1.0, grid)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Autoencoder:
        """An autoencoder with a tokenizer's weights, copied, in evaluation mode.

        Raises:
            TokenizerError: see the class.
        """
        _check(tokenizer)
        levels = tokenizer.encoder.factor.bit_length()
        dim, normaliser = tokenizer.quantizer.dim, tokenizer.normaliser
        assert normaliser is not None
        self = cls(tokenizer.to_config(), (dim,) * levels, dim, grid=normaliser.grid)
        self.tokenizer.load_state_dict(tokenizer.state_dict())
        return self.to(tokenizer.device).eval()  # type: ignore[no-any-return]

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels to a latent along each side."""
        return self.tokenizer.encoder.factor

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images to the distribution of their latents; one without spread where the tokenizer has none.

        Shapes:
            x (B, 3, H, W) in [-1, 1] -> ``.latent_dist`` over (B, D, h, w).
        """
        from vistok.quantizers import Gaussian

        spread = isinstance(self.tokenizer.quantizer, Gaussian)
        encoded = self.tokenizer.moments(x) if spread else self.tokenizer.encode(x)
        assert encoded.latents is not None
        values = encoded.latents.reshape(len(x), *encoded.grid, -1).permute(0, 3, 1, 2).to(x.dtype)
        if spread:
            mean, deviation = values.chunk(2, dim=1)
            parameters = torch.cat([mean, 2 * deviation.log()], dim=1)
        else:
            parameters = torch.cat([values, torch.zeros_like(values)], dim=1)
        distribution = DiagonalGaussianDistribution(parameters, deterministic=not spread)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Latents to images; ``generator`` is there because pipelines pass it, decoding draws nothing.

        Shapes:
            z (B, D, h, w) -> ``.sample`` (B, 3, H, W) in [-1, 1].
        """
        latents = z.permute(0, 2, 3, 1).flatten(1, 2)
        sample = self.tokenizer.decode(latents=latents, grid=(z.shape[2], z.shape[3])).to(z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Images to their reconstructions, from the mode unless a draw is asked for."""
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)


def _check(tokenizer: Tokenizer) -> None:
    if tokenizer.normaliser is None:
        raise TokenizerError(
            f"{tokenizer.name} is discrete: diffusers' autoencoders have latents; choose a continuous tokenizer, kl_f8 say"
        )
    if tokenizer.decoder is None:
        raise TokenizerError(f"{tokenizer.name} has no pixel decoder, which a pipeline ends with")
    if tokenizer.encoder.topology != "2d" or len(tokenizer.branches):
        raise TokenizerError(f"{tokenizer.name} has no single grid of latents, which a pipeline's are")
    factor = tokenizer.encoder.factor
    if factor & (factor - 1):
        raise TokenizerError(
            f"the factor of {tokenizer.name} is {factor}: diffusers' pipelines know powers of 2 alone"
        )
