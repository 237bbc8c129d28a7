"""Whose turn it is among requests of different sizes."""

from __future__ import annotations

from collections.abc import Callable


class Turns:
    """Shares work out fairly: weighted fair queueing (Demers, Keshav and Shenker 1989).

    Each request has had so much, and a newcomer begins with what a fair share would be by now. Who
    has had least, its next piece included, has its turn: a small request does not wait for large
    ones, and a large one does not wait for ever.
    """

    def __init__(self) -> None:
        self._share = 0.0
        self._had: dict[int, float] = {}

    def begin(self, request: int) -> None:
        """Lets a request take part."""
        self._had[request] = self._share

    def end(self, request: int) -> None:
        """Lets it take part no longer. Unknown ones are ignored."""
        self._had.pop(request, None)

    def next(self, cost: Callable[[int], int]) -> int:
        """Returns the request whose turn it is, given what the next piece of each one costs."""
        return min(self._had, key=lambda request: self._had[request] + cost(request))

    def charge(self, request: int, cost: int) -> None:
        """Counts a piece of work that was done for a request."""
        self._had[request] += cost
        self._share += cost / len(self._had)
