"""A generative model by someone who has read nothing of vistok: it gets a JSON text and a folder of shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vistok.shards
from tests.layouts.tokenizers import SIZE, small_tokenizer
from vistok.data import Photos
from vistok.quantizers import FSQ, VQ, MultiScale, Residual
from vistok.spec import ImagePolicy


class Stranger(nn.Module):
    """A recurrent model over all indices of an image, position by position and group by group."""

    def __init__(self, spec_json: str, example: Tensor) -> None:
        super().__init__()
        (stream,) = json.loads(spec_json)["streams"]
        self.codes, self.groups = stream["codebook_size"], stream["num_groups"]
        self.length = len(example) * self.groups
        assert example.shape[1] == self.groups
        self.read = nn.Embedding(self.codes + 1, 48)
        self.place = nn.Parameter(torch.randn(self.length, 48) * 0.1)
        self.remember = nn.GRU(48, 96, batch_first=True)
        self.write = nn.Linear(96, self.codes)

    def forward(self, before: Tensor) -> Tensor:
        start = torch.full((len(before), 1), self.codes)
        x = self.read(torch.cat([start, before], 1))
        return self.write(self.remember(x + self.place[: x.shape[1]])[0])

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        drawn = torch.zeros(count, 0, dtype=torch.int64)
        for _ in range(self.length):
            following = torch.multinomial(self(drawn)[:, -1].softmax(-1), 1)
            drawn = torch.cat([drawn, following], 1)
        return drawn.view(count, -1, self.groups)


def fit(model: Stranger, tokens: Tensor) -> list[float]:
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(40):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    "quantizer",
    [
        VQ(codebook_size=32, dim=4),
        FSQ((4, 4, 4)),
        Residual(VQ(codebook_size=16, dim=4), 2),
        MultiScale.tiny(),
    ],
    ids=["vq", "fsq", "residual", "multi-scale"],
)
def test_a_stranger_writes_a_consumer_from_the_spec_alone(quantizer, tmp_path: Path):
    tokenizer = small_tokenizer(quantizer)
    photos = Photos("all", policy=ImagePolicy(size=(SIZE, SIZE)), multiple_of=8)
    vistok.shards.encode(tokenizer, photos, tmp_path / "shards", progress=False)
    spec_json = tokenizer.spec.to_json()

    items = list(vistok.shards.open(tmp_path / "shards"))
    model = Stranger(spec_json, items[0]["indices"])
    tokens = torch.stack([item["indices"] for item in items]).flatten(1)
    losses = fit(model, tokens)
    assert losses[-1] < 0.5 * losses[0]
    drawn = model.sample(3)

    pictures = tokenizer.decode(indices=drawn, grid=items[0]["grid"])
    assert pictures.shape == (3, 3, SIZE, SIZE) and pictures.isfinite().all()
    assert pictures.amin() >= -1 and pictures.amax() <= 1
