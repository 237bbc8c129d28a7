"""Texts that wait to become token ids."""

from __future__ import annotations

from serving.boundary.encoder.messages import Encode, Input
from serving.engines.encoder.texts import PIECE_CHARACTERS, TextQueue


class Tokenizer:
    """Gives each text as many tokens as it has characters, and keeps how much it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, inputs: list[Input]) -> list[list[int]]:
        self.given.append(sum(map(len, inputs)))
        return [[0] * len(text) for text in inputs]


def test_a_large_request_is_read_in_pieces_and_a_small_one_in_between() -> None:
    tokenizer = Tokenizer()
    queue = TextQueue(tokenizer)
    large = Encode(1, ["x" * (PIECE_CHARACTERS // 2)] * 7, 384)
    small = Encode(2, ["Hello", [5, 6]], 384)
    queue.add(large)
    assert queue.read() is None
    queue.add(small)
    assert queue.read() == (small, [[0] * 5, [0] * 2])
    rest = [queue.read() for _ in range(3)]
    assert rest[:2] == [None, None]
    assert rest[2] is not None
    assert (rest[2][0], len(rest[2][1])) == (large, 7)
    assert max(tokenizer.given) == PIECE_CHARACTERS
    assert not queue


def test_a_text_longer_than_a_piece_is_one_alone() -> None:
    queue = TextQueue(Tokenizer())
    queue.add(Encode(1, ["x" * (2 * PIECE_CHARACTERS), "y"], 384))
    assert queue.read() is None
    assert queue.read() is not None


def test_what_is_dropped_is_not_read() -> None:
    tokenizer = Tokenizer()
    queue = TextQueue(tokenizer)
    queue.add(Encode(1, ["Hello"], 384))
    queue.add(Encode(2, ["Hi"], 384))
    queue.drop(1)
    queue.drop(7)
    assert queue.read() == (Encode(2, ["Hi"], 384), [[0] * 2])
    assert not queue
    assert tokenizer.given == [2]
