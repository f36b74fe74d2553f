"""The projection that looks at the other tokens before it changes the number of channels."""

from __future__ import annotations

from torch import Tensor, nn

from vistok.backbones.attention import Attention
from vistok.backbones.transformer import init_linear
from vistok.recorded import Recorded


class AttentionProjection(Recorded, nn.Module):
    """A linear map beside attention over all tokens, then an MLP: between an encoder and a narrow quantizer, or back.

    Source: Ma et al., UniTok: A Unified Tokenizer for Visual Generation and Understanding (2025), arXiv:2502.20321,
    section 3. Deviations: one linear layer joins the heads, where theirs are averaged; a plain MLP of as many weights.

    Args:
        dim_in: Channels that come in.
        dim_out: Channels that go out.
        num_heads: Attention heads; they divide the larger of the two.
        mlp_ratio: Hidden channels of the MLP over ``dim_out``.

    Shapes:
        x (B, ..., dim_in) -> (B, ..., dim_out); every position sees all others of its image.

    Raises:
        ValueError: channels that the heads do not divide.
    """

    def __init__(self, dim_in: int, dim_out: int, num_heads: int = 8, mlp_ratio: float = 3.0) -> None:
        super().__init__()
        hidden = int(dim_out * mlp_ratio)
        self.dim_in, self.dim_out = dim_in, dim_out
        self.norm = nn.LayerNorm(dim_in, eps=1e-6)
        self.attention = Attention(dim_in, num_heads, dim_out)
        self.norm_direct = nn.LayerNorm(dim_in, eps=1e-6)
        self.direct = nn.Linear(dim_in, dim_out)
        self.norm_mlp = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim_out, hidden), nn.GELU(), nn.Linear(hidden, dim_out))
        for layer in (self.direct, self.mlp[0], self.mlp[2]):
            init_linear(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Projects."""
        tokens = x.flatten(1, -2)
        seen = self.norm(tokens)
        out = self.direct(self.norm_direct(tokens)) + self.attention(seen, seen)
        out = out + self.mlp(self.norm_mlp(out))
        return out.view(*x.shape[:-1], self.dim_out)  # type: ignore[no-any-return]
