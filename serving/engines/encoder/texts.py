"""Requests whose texts are yet to become token ids, a few texts at a time."""

from __future__ import annotations

from collections.abc import Callable

from serving.boundary.encoder.messages import Encode, Input
from serving.engines.encoder.turns import Turns

PIECE_CHARACTERS = 64 * 1024
"""Of one turn, if the first text is not longer: less than a tenth of a second."""


class TextQueue:
    """Requests that wait, and of each what `tokenize` has made of its texts so far."""

    def __init__(self, tokenize: Callable[[list[Input]], list[list[int]]]) -> None:
        self._tokenize = tokenize
        self._waiting: dict[int, tuple[Encode, list[list[int]]]] = {}
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Encode) -> None:
        """Lets a request wait."""
        self._waiting[request.id] = (request, [])
        self._turns.begin(request.id)

    def drop(self, request: int) -> None:
        """Forgets a request, or ignores one that it does not know."""
        self._turns.end(request)
        self._waiting.pop(request, None)

    def read(self) -> tuple[Encode, list[list[int]]] | None:
        """Goes on with the request whose turn it is; returns it with its token ids once that is
        done. Something must wait."""
        chosen = self._turns.next(lambda request: _characters(self._next(request)))
        request, read = self._waiting[chosen]
        piece = self._next(chosen)
        self._turns.charge(chosen, _characters(piece))
        read += self._tokenize(piece)
        if len(read) < len(request.inputs):
            return None
        self.drop(chosen)
        return request, read

    def _next(self, request: int) -> list[Input]:
        """Returns the next texts of a request, one at least."""
        message, read = self._waiting[request]
        last, characters = len(read), 0
        while last < len(message.inputs) and (
            last == len(read) or characters + len(message.inputs[last]) <= PIECE_CHARACTERS
        ):
            characters += len(message.inputs[last])
            last += 1
        return message.inputs[len(read) : last]


def _characters(inputs: list[Input]) -> int:
    return sum(map(len, inputs))
