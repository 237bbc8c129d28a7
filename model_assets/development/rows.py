"""The part of the vocabulary that the development checkpoint knows.

A compact network has one row for each id in `ids` and one further row, number `len(ids)`, that
stands for every other id of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.harmony.vocabulary import Vocabulary

COMMON_BELOW = 900
JUNK_RANGE = (30_000, 190_000)


class Rows(msgspec.Struct, frozen=True):
    """The ids that have rows, ascending, and the row of every id of the vocabulary."""

    ids: tuple[int, ...]
    row_of: NDArray[np.int64]

    def compact(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Returns the row of each token, in the shape [len(tokens)]."""
        return self.row_of[np.asarray(tokens, dtype=np.int64)]


def rows_of(ids: Iterable[int], size: int) -> Rows:
    """Returns the rows for a set of ids of a vocabulary of `size`."""
    ordered = tuple(sorted(set(ids)))
    row_of = np.full(size, len(ordered), dtype=np.int64)
    row_of[list(ordered)] = np.arange(len(ordered))
    return Rows(ordered, row_of)


def common_ids(vocabulary: Vocabulary) -> list[int]:
    """Returns the ids of numbers to 999 and of frequent ASCII words, with and without a space.

    Low ids were merged first when the vocabulary was made, so they are the frequent ones.
    """
    ids = [token for number in range(1000) for token in vocabulary.encode(str(number))]
    for token in range(COMMON_BELOW):
        piece = vocabulary.token_bytes(token)
        if piece.strip(b" ").isalpha() and piece.isascii():
            for form in (piece.strip(), b" " + piece.strip()):
                tokens = vocabulary.encode(form.decode())
                if len(tokens) == 1:
                    ids.extend(tokens)
    return ids


def copyable_words(vocabulary: Vocabulary, rows: Rows) -> list[str]:
    """Returns the words of two letters and more that are one row with and without a space."""
    words = []
    known = set(rows.ids)
    for token in rows.ids:
        piece = vocabulary.token_bytes(token)
        if piece.isalpha() and piece.isascii() and len(piece) > 1:
            spaced = vocabulary.encode(" " + piece.decode())
            if len(spaced) == 1 and spaced[0] in known:
                words.append(piece.decode())
    return words


def families(vocabulary: Vocabulary, rows: Rows) -> list[int]:
    """Returns for each row, the last included, the number of its family.

    Tokens that differ only in case or in what is not a letter or digit are one family: ` Paris` and
    `Paris`, ` get` and `.get`. A token without letters and digits is a family of its own.
    """
    numbers: dict[str, int] = {}
    found = []
    for token in rows.ids:
        piece = vocabulary.token_bytes(token)
        word = "".join(filter(str.isalnum, piece.decode(errors="ignore"))).lower()
        found.append(numbers.setdefault(word or f"<{token}>", len(numbers)))
    return [*found, len(numbers)]


def junk_words(vocabulary: Vocabulary, rows: Rows, rng: Random, count: int) -> list[str]:
    """Returns words that have no row of their own: what the network has to admit not to know."""
    known = set(rows.ids)
    words: list[str] = []
    while len(words) < count:
        token = rng.randrange(*JUNK_RANGE)
        piece = vocabulary.token_bytes(token).strip()
        if token not in known and len(piece) > 2 and piece.isalpha() and piece.isascii():
            words.append(piece.decode())
    return words
