"""A further stream of tokens beside a tokenizer's first one."""

from __future__ import annotations

from torch import nn

from vistok.backbones.base import Encoder, FeatureHead
from vistok.quantizers import Quantizer
from vistok.tokenizer.code_noise import CodeNoise
from vistok.tokenizer.merge import Merge
from vistok.tokenizer.parts import StreamParts


class Branch(StreamParts):
    """One more stream: an encoder of its own with its own quantizer.

    Args:
        encoder: Images to latents.
        quantizer: Latents to tokens; a continuous one too.
        name: Of the stream, ``pixel`` say.
        project_in: From the encoder's channels to the quantizer's; None where they are equal.
        project_out: From the quantizer's channels to what is merged; None leaves them.
        feature_head: Projected vectors to a teacher's features; at most one stream has one.
        merge: How its vectors reach the pixel decoder; None keeps them from it.
        noise: Wrong codes in training.

    Raises:
        ValueError: a name that is empty or holds a slash or a dot.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        name: str,
        project_in: nn.Module | None = None,
        project_out: nn.Module | None = None,
        feature_head: FeatureHead | None = None,
        merge: Merge | None = None,
        noise: CodeNoise | None = None,
    ) -> None:
        super().__init__()
        if not name.isidentifier():
            raise ValueError(f"a stream is named by letters, digits and underscores, not {name!r}")
        self.set_parts(encoder, quantizer, None, project_in, project_out, feature_head)
        self.name, self.merge, self.noise = name, merge, noise
        if noise is not None:
            noise.check(quantizer)
        self.set_normaliser()
