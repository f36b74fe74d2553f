"""A small causal transformer over the tokens of an image: the downstream model of the demo."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INIT_STD = 0.02


class TokenTransformer(nn.Module):
    """Predicts each token of an image from those before it, in raster order.

    It enters through what a tokenizer gives: a token's embedding is a linear map of its post-quantization vector
    (``tok.embed``) plus a small learned vector of its own, and the same embeddings, transposed, make the logits. The
    output bias starts at the log frequencies of the tokens, so that training starts at the unigram loss.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3; tied embeddings:
    Press and Wolf (2017), arXiv:1608.05859. Deviation: rows and columns have learned positions that are added.

    Args:
        vectors: (K, D) post-quantization vectors of all codes; only their directions from the mean matter.
        frequencies: (K,) shares of the tokens in the training set, positive.
        grid: (h, w) of the token grid.
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        tokens (B, n) in [0, K), n < h * w -> logits (B, n + 1, K): entry i is for token i, given those before it.
    """

    vectors: Tensor

    def __init__(
        self,
        vectors: Tensor,
        frequencies: Tensor,
        grid: tuple[int, int],
        width: int = 128,
        depth: int = 3,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.codebook_size, dim = vectors.shape
        centred = vectors.detach().float() - vectors.detach().float().mean(dim=0)
        scale = centred.square().mean().sqrt().clamp_min(1e-8)
        self.register_buffer("vectors", centred / scale)
        self.from_vectors = nn.Linear(dim, width, bias=False)
        self.own = nn.Embedding(self.codebook_size, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.rows = nn.Parameter(torch.zeros(grid[0], 1, width))
        self.columns = nn.Parameter(torch.zeros(1, grid[1], width))
        self.blocks = nn.ModuleList([CausalBlock(width, num_heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(frequencies.detach().float().log())
        for parameter in (self.own.weight, self.start, self.rows, self.columns):
            nn.init.normal_(parameter, std=_INIT_STD)
        nn.init.normal_(self.from_vectors.weight, std=_INIT_STD / dim**0.5)

    @property
    def num_tokens(self) -> int:
        """Tokens of one image."""
        return self.grid[0] * self.grid[1]

    def embeddings(self) -> Tensor:
        """The (K, width) table that reads tokens and, transposed, scores them."""
        table: Tensor = self.from_vectors(self.vectors) + self.own.weight
        return table

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every next token."""
        table = self.embeddings()
        x = torch.cat([self.start.expand(len(tokens), 1, -1), F.embedding(tokens, table)], dim=1)
        # a position says which token is asked for, not which one is read
        positions = (self.rows + self.columns).flatten(0, 1)[: x.shape[1]]
        x = self.dropout(x + positions)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = F.linear(self.norm(x), table) + self.bias
        return logits

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        on_token: Callable[[int], None] = lambda done: None,
    ) -> Tensor:
        """Draws token grids, one token after the other; in evaluation mode.

        Args:
            count: How many.
            temperature: Divides the logits, above 0.
            top_k: Only this many most likely tokens are drawn from; 0: all.
            seed: Of the draws.
            on_token: Called with the number of tokens drawn so far.

        Shapes:
            -> (count, h * w) int64.
        """
        generator = torch.Generator().manual_seed(seed)
        was_training = self.training
        self.eval()
        tokens = torch.zeros(count, 0, dtype=torch.int64)
        for position in range(self.num_tokens):
            logits = self(tokens)[:, -1] / temperature
            if 0 < top_k < self.codebook_size:
                least = logits.topk(top_k, dim=-1).values[:, -1:]
                logits = logits.masked_fill(logits < least, -torch.inf)
            drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            tokens = torch.cat([tokens, drawn], dim=1)
            on_token(position + 1)
        self.train(was_training)
        return tokens


class CausalBlock(nn.Module):
    """Causal attention, then an MLP, each normalised before and added to the stream (B, N, C)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.dropout(self._attend(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]
