"""The sizes of a convolutional autoencoder, read from the shapes in its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vistok.backbones import ConvDecoder, ConvEncoder, Linear, ModulatedDecoder
from vistok.backbones.conv import group_norm
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap


class Sizes:
    """Looks shapes up by the logical names of ``keys``.

    Args:
        checkpoint: Where the shapes are.
        keys: Where it keeps what.
        num_groups: Groups of its group normalisations.
    """

    def __init__(self, checkpoint: Checkpoint, keys: KeyMap, num_groups: int = 32) -> None:
        self.checkpoint, self.keys, self.num_groups = checkpoint, keys, num_groups

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds anything that a parameter is made of; filling tells what else is missing."""
        return any(key in self.checkpoint.tensors for key in self.keys.theirs(name))

    def shape(self, name: str) -> list[int]:
        """Shape of the first tensor that a parameter is made of.

        Raises:
            TokenizerError: there is none.
        """
        key = self.keys.theirs(name)[0]
        if key not in self.checkpoint.tensors:
            raise self.checkpoint.refuse(f"it lacks {key}")
        return list(self.checkpoint.tensors[key].shape)

    def encoder(self) -> ConvEncoder:
        """The encoder, with random weights."""
        channels, colours = self.shape("encoder.conv_in.weight")[:2]
        if colours != 3:
            raise self.checkpoint.refuse(f"its images have {colours} channels, not 3")
        widths, num_res_blocks, attention_at = self._levels("encoder", range(self.num_levels))
        if any(width % channels for width in widths):
            raise self.checkpoint.refuse(f"its levels have {widths} channels, not multiples of {channels}")
        return ConvEncoder(
            self.shape("encoder.conv_out.weight")[0],
            channels,
            [width // channels for width in widths],
            num_res_blocks,
            attention_at,
            num_groups=self._groups([channels, *widths]),
        )

    def decoder(self) -> ConvDecoder | None:
        """The decoder, with random weights; None where the checkpoint has none."""
        if not self.has("decoder.conv_in.weight"):
            return None
        return ConvDecoder(self.shape("decoder.conv_in.weight")[1], **self._decoder_arguments())

    def modulated_decoder(self, code_dim: int, **arguments: Any) -> ModulatedDecoder:
        """The modulated decoder, with random weights."""
        dim = self.shape("decoder.conv_in.weight")[1]
        return ModulatedDecoder(dim, code_dim, **self._decoder_arguments(), **arguments)

    def projection(self, name: str) -> Linear | None:
        """A linear layer of the tokenizer; None where the checkpoint has none."""
        if not self.has(f"{name}.weight"):
            return None
        dim_out, dim_in = self.shape(f"{name}.weight")[:2]
        return Linear(dim_in, dim_out, bias=self.has(f"{name}.bias"))

    @property
    def num_levels(self) -> int:
        """Levels of the encoder, which the decoder shares."""
        return self._count("encoder.levels.{}.res.0.conv1.weight")

    def _decoder_arguments(self) -> dict[str, Any]:
        levels = range(self.num_levels)
        widths, num_res_blocks, attention_at = self._levels(
            "decoder", levels if self.keys.finest_first else reversed(levels)
        )
        channels = math.gcd(*widths)
        return {
            "channels": channels,
            "multipliers": [width // channels for width in widths],
            "num_res_blocks": num_res_blocks - 1,
            "attention_at": attention_at,
            "num_groups": self._groups(widths),
        }

    def _levels(self, side: str, numbers: Any) -> tuple[list[int], int, list[int]]:
        """Widths from the finest level to the coarsest, residual blocks a level, levels with attention; ``numbers`` in that order."""
        numbers = list(numbers)
        places = [f"{side}.levels.{number}" for number in numbers]
        if not places:
            raise self.checkpoint.refuse(
                f"it lacks {self.keys.theirs(f'{side}.levels.0.res.0.conv1.weight')[0]}"
            )
        widths = [self.shape(f"{place}.res.0.conv1.weight")[0] for place in places]
        attention_at = [n for n, place in enumerate(places) if self.has(f"{place}.attention.0.qkv.weight")]
        in_the_middle = self.has(f"{side}.middle.attention.0.qkv.weight")
        if attention_at and not in_the_middle:
            raise self.checkpoint.refuse(f"its {side} has attention in levels and none in the middle block")
        if in_the_middle and not attention_at:
            attention_at = [len(places)]
        return widths, self._count(places[0] + ".res.{}.conv1.weight"), attention_at

    def _count(self, pattern: str) -> int:
        count = 0
        while self.has(pattern.format(count)):
            count += 1
        return count

    def _groups(self, widths: Sequence[int]) -> int | None:
        """None where our own rule gives their number of groups."""
        alike = all(width % 32 == 0 and group_norm(width).num_groups == self.num_groups for width in widths)
        return None if alike else self.num_groups
