"""Remembers the token ids of texts, so that a conversation's earlier turns are encoded once."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

MIN_CHARACTERS = 64
"""A shorter text is encoded about as fast as it is looked up."""


class Memo:
    """Text -> token ids, at most `max_tokens` ids in all; the text used longest ago goes first.

    A text costs its own characters and four bytes a token. Threads may share one.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._held_tokens = 0
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
        if len(text) < MIN_CHARACTERS or len(ids) > self._max_tokens:
            return
        with self._lock:
            if text in self._entries:
                return
            self._entries[text] = array("I", ids)
            self._held_tokens += len(ids)
            while self._held_tokens > self._max_tokens:
                _, oldest = self._entries.popitem(last=False)
                self._held_tokens -= len(oldest)

    def __len__(self) -> int:
        return len(self._entries)
