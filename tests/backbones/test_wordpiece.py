from __future__ import annotations

from pathlib import Path

import pytest

from vistok.backbones.wordpiece import WordPiece, words
from vistok.errors import TokenizerError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##ed", "a", "cat", ",", "中", "cafe"]

TEXTS = [
    "A cat, playing.",
    "  Café\tCAT  played\n",
    "中文 cat",
    "",
    "x" * 101,
    "a$cat^a",
    "naïve ﬁancé \x00 soft\u00adhyphen zero\u200bwidth",
    "ÄÖÜ ß İstanbul",
]


def test_words_are_split_into_the_longest_pieces() -> None:
    tokenizer = WordPiece(PIECES)
    assert tokenizer("Playing, a CAT!", 20) == [2, 4, 5, 9, 7, 8, 1, 3]
    assert tokenizer("café", 20) == [2, 11, 3]
    assert tokenizer("playful", 20) == [2, 1, 3]  # a word with an unknown end is unknown as a whole


def test_what_is_too_long_is_cut_between_the_marks() -> None:
    assert WordPiece(PIECES)("a a a a a", 4) == [2, 7, 7, 3]


def test_punctuation_and_chinese_characters_are_words() -> None:
    assert list(words("don't (中文)")) == ["don", "'", "t", "(", "中", "文", ")"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(tmp_path: Path, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    letters = sorted({c for t in TEXTS for w in words(t) for c in w})
    pieces = [*PIECES, *letters, *("##" + letter for letter in letters)]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizer(str(file), do_lower_case=True)
    ours = WordPiece.read(file)
    assert ours(text, 512) == theirs(text)["input_ids"]


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    with pytest.raises(TokenizerError, match="cannot be read"):
        WordPiece.read(file)
    file.write_text("[PAD]\n[UNK]\n[CLS]\n")
    with pytest.raises(TokenizerError, match=r"no vocabulary of WordPiece: \[SEP\] is missing"):
        WordPiece.read(file)
    file.write_text("a\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(TokenizerError, match=r"\[PAD\] as its first line is missing"):
        WordPiece.read(file)
