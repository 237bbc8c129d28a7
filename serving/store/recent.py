"""The latest responses of one connection, to be continued without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Item = Mapping[str, Any]


class Recent:
    """Responses by their ids, each with the items of its conversation; bounded in bytes.

    Those that were made or continued longest ago go first. Of each is known which responses of its
    conversation are stored: where one of them was deleted, it cannot be continued here either.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._chains: dict[str, tuple[list[Item], int, frozenset[str]]] = {}

    def chain(self, response_id: str) -> list[Item] | None:
        """Returns the items, input and output, of a response and all before it, oldest first."""
        found = self._chains.pop(response_id, None)
        if found is None:
            return None
        self._chains[response_id] = found
        return found[0]

    def stored(self, response_id: str) -> frozenset[str]:
        """Returns the ids of the stored responses in the conversation of one."""
        found = self._chains.get(response_id)
        return frozenset() if found is None else found[2]

    def remember(
        self,
        response_id: str,
        earlier: Sequence[Item],
        added: Sequence[Item],
        stored: frozenset[str] = frozenset(),
    ) -> None:
        """Keeps a response: the items before it, its own, and which of its conversation are
        stored."""
        items = [*earlier, *added]
        size = len(msgspec.json.encode(items))
        self._chains[response_id] = items, size, stored
        self._size += size
        while self._size > self._max_bytes:
            oldest = next(iter(self._chains))
            self._size -= self._chains.pop(oldest)[1]
