"""The latest responses of one connection, to be continued without a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

Json = dict[str, Any]


class Recent:
    """Responses by their ids, each with the items of its conversation; bounded in bytes.

    Those that were made or continued longest ago go first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._chains: dict[str, tuple[list[Json], int]] = {}

    def chain(self, response_id: str) -> list[Json] | None:
        """Returns the items, input and output, of a response and all before it, oldest first."""
        found = self._chains.pop(response_id, None)
        if found is None:
            return None
        self._chains[response_id] = found
        return found[0]

    def remember(self, response_id: str, earlier: Sequence[Json], added: Sequence[Json]) -> None:
        """Keeps a response: the items before it, and its own."""
        items = [*earlier, *added]
        size = len(msgspec.json.encode(items))
        self._chains[response_id] = items, size
        self._size += size
        while self._size > self._max_bytes:
            oldest = next(iter(self._chains))
            self._size -= self._chains.pop(oldest)[1]
