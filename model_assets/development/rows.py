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

LARGEST_NUMBER = 249
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


def number_ids(vocabulary: Vocabulary) -> list[int]:
    """Returns the ids of the numbers that can be told: larger ones have no row."""
    return [
        token for number in range(LARGEST_NUMBER + 1) for token in vocabulary.encode(str(number))
    ]


def large_number(vocabulary: Vocabulary, token: int) -> bool:
    """Returns whether a token is a number that is too large to be told."""
    piece = vocabulary.token_bytes(token)
    return piece.isdigit() and int(piece) > LARGEST_NUMBER


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
