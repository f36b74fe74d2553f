"""BERT's uncased WordPiece tokenizer, from a file of its vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from vistok.errors import TokenizerError

LONGEST_WORD = 100  # characters; a longer one is unknown


class WordPiece:
    """Texts to ids: words in lower case without accents, each split into the longest pieces that the vocabulary has.

    Source: Devlin et al., BERT (2019), arXiv:1810.04805, section 3, and the authors' uncased tokenizer.

    Args:
        vocabulary: Pieces in the order of their ids; those that continue a word begin with ``##``.

    Raises:
        TokenizerError: a vocabulary without ``[PAD]`` as its first, ``[UNK]``, ``[CLS]`` and ``[SEP]``.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.ids = {piece: number for number, piece in enumerate(vocabulary)}
        missing = [piece for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if piece not in self.ids]
        if missing or self.ids["[PAD]"] != 0:
            raise TokenizerError(
                f"this is no vocabulary of WordPiece: {missing[0] if missing else '[PAD] as its first line'} is missing"
            )

    @classmethod
    def read(cls, path: Path) -> WordPiece:
        """Reads a ``vocab.txt``, one piece a line.

        Raises:
            TokenizerError: no such file, or another kind of file.
        """
        try:
            return cls(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"the vocabulary {path} cannot be read: {error}") from error

    def __call__(self, text: str, max_length: int) -> list[int]:
        """``[CLS]``, the pieces, ``[SEP]``; cut to ``max_length`` ids, both marks included."""
        pieces = [piece for word in words(text) for piece in self._pieces(word)]
        return [self.ids["[CLS]"], *pieces[: max_length - 2], self.ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self.ids["[UNK]"]]
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next(
                (end for end in range(len(word), start, -1) if prefix + word[start:end] in self.ids), None
            )
            if end is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found


def words(text: str) -> Iterator[str]:
    """Words in lower case without accents; punctuation and Chinese characters are words of their own."""
    plain = "".join(" " if character.isspace() else character for character in text if _printable(character))
    decomposed = unicodedata.normalize("NFD", plain.lower())
    word = ""
    for character in decomposed:
        if unicodedata.category(character) == "Mn":
            continue
        alone = _is_punctuation(character) or _is_chinese(character)
        if character.isspace() or alone:
            if word:
                yield word
            word = ""
            if alone:
                yield character
        else:
            word += character
    if word:
        yield word


def _printable(character: str) -> bool:
    if character in "\t\n\r":
        return True
    return character != "\ufffd" and not unicodedata.category(character).startswith("C")


def _is_punctuation(character: str) -> bool:
    # BERT counts all of ASCII that is neither letter, digit nor space: $, +, ^ too, which Unicode calls symbols
    if character.isascii():
        return not character.isalnum() and not character.isspace()
    return unicodedata.category(character).startswith("P")


def _is_chinese(character: str) -> bool:
    code = ord(character)
    return any(
        low <= code <= high
        for low, high in (
            (0x4E00, 0x9FFF),
            (0x3400, 0x4DBF),
            (0x20000, 0x2A6DF),
            (0x2A700, 0x2B73F),
            (0x2B740, 0x2B81F),
            (0x2B820, 0x2CEAF),
            (0xF900, 0xFAFF),
            (0x2F800, 0x2FA1F),
        )
    )
