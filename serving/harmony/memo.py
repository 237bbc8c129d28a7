"""Remembers the token ids of texts, so that a conversation's earlier turns are encoded once."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict

MIN_CHARACTERS = 64
"""A shorter text is encoded about as fast as it is looked up."""


class Memo:
    """Text -> token ids, at most `max_bytes` in all; the text used longest ago goes first.

    A text costs its own memory and four bytes a token. Threads may share one.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._entries: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> list[int] | None:
        """Returns a new list of the ids of `text`, or None when they are not remembered."""
        if len(text) < MIN_CHARACTERS:
            return None
        with self._lock:
            ids = self._entries.get(text)
            if ids is None:
                return None
            self._entries.move_to_end(text)
        return ids.tolist()

    def put(self, text: str, ids: list[int]) -> None:
        """Remembers `ids` for `text`, unless the text is short or has no room at all."""
        if len(text) < MIN_CHARACTERS:
            return
        cost = _cost_bytes(text, len(ids))
        if cost > self._max_bytes:
            return
        with self._lock:
            if text in self._entries:
                return
            self._entries[text] = array("I", ids)
            self._held_bytes += cost
            while self._held_bytes > self._max_bytes:
                oldest, its_ids = self._entries.popitem(last=False)
                self._held_bytes -= _cost_bytes(oldest, len(its_ids))

    def __len__(self) -> int:
        return len(self._entries)


def _cost_bytes(text: str, tokens: int) -> int:
    return sys.getsizeof(text) + 4 * tokens
