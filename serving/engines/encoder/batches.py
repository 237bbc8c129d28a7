"""Which texts go through the encoder together: those of like length, with each request in turn."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from serving.engines.encoder.turns import Turns


class Item(NamedTuple):
    """One input. Sorts by length, then by age."""

    length: int
    age: int
    request: int
    place: int
    dimensions: int
    tokens: list[int]


class BatchQueue:
    """Inputs that wait, of all requests.

    A batch is a rectangle as long as its longest input, so what is short beside what is long costs
    as much as it. `batch_tokens` bounds the rectangle; a longer input is a batch of its own.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._sorted: list[Item] = []
        self._waiting: dict[int, dict[int, Item]] = {}
        """The items of each request by their age."""
        self._turns = Turns()
        self._next_age = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, request: int, inputs: list[list[int]], dimensions: int) -> None:
        """Lets the inputs of a request wait, as token ids. There must be one."""
        waiting = self._waiting[request] = {}
        self._turns.begin(request)
        for place, tokens in enumerate(inputs):
            age, self._next_age = self._next_age, self._next_age + 1
            waiting[age] = item = Item(len(tokens), age, request, place, dimensions, tokens)
            insort(self._sorted, item)

    def drop(self, request: int) -> None:
        """Forgets what waits of a request."""
        if self._waiting.pop(request, None) is not None:
            self._turns.end(request)
            self._sorted = [item for item in self._sorted if item.request != request]

    def take(self) -> list[Item]:
        """Returns the next batch: the oldest input of the request whose turn it is and, as they
        fit, those nearest to its length.

        Something must wait.
        """
        oldest = self._oldest(self._turns.next(lambda request: self._oldest(request).length))
        first = bisect_left(self._sorted, oldest)
        last = first + 1
        while (grown := self._grown(first, last, oldest.length)) is not None:
            first, last = grown
        batch = self._sorted[first:last]
        del self._sorted[first:last]
        for item in batch:
            self._turns.charge(item.request, item.length)
            waiting = self._waiting[item.request]
            del waiting[item.age]
            if not waiting:
                del self._waiting[item.request]
                self._turns.end(item.request)
        return batch

    def _oldest(self, request: int) -> Item:
        return next(iter(self._waiting[request].values()))

    def _grown(self, first: int, last: int, length: int) -> tuple[int, int] | None:
        """Returns the range in `_sorted` with the nearest neighbour that fits, or None."""
        rows = last - first + 1
        options: list[tuple[int, int, int]] = []
        if first > 0 and self._sorted[last - 1].length * rows <= self._batch_tokens:
            options.append((length - self._sorted[first - 1].length, first - 1, last))
        if last < len(self._sorted) and self._sorted[last].length * rows <= self._batch_tokens:
            options.append((self._sorted[last].length - length, first, last + 1))
        return min(options)[1:] if options else None
