"""Finds stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Cuts a text at the first of its stop strings, wherever the pieces break.

    The first is the one that is complete first, as if the text came character by character; of two
    that are complete at once, the longer. So the answer does not depend on how it was streamed.
    What could be the beginning of a stop string is held back until more text decides. The text
    that was given out and `flush()` together are the text up to the match, or all of it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._firsts = frozenset(stop[0] for stop in stops)
        self._held = ""
        self.match: str | None = None
        """The stop string that was found."""

    @property
    def matched(self) -> bool:
        """Whether a stop string was found."""
        return self.match is not None

    def feed(self, piece: str) -> str:
        """Returns the text that is certain after `piece`; sets `match` when a stop was found."""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, at = min(found)
            self.match = text[at:end]
            self._held = ""
            return text[:at]
        keep = self._open_suffix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Returns what was held back: no more text comes, so no stop string is in it."""
        held, self._held = self._held, ""
        return held

    def _open_suffix(self, text: str) -> int:
        """Returns the length of the longest end of `text` that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            if text[start] in self._firsts:
                tail = text[start:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return len(tail)
        return 0
