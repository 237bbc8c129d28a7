"""Decodes the tokens of a raw completion: the output is text, with no Harmony in it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from serving.events import Content, Event
from serving.harmony.vocabulary import ORDINARY_TOKENS, Vocabulary


class PlainText:
    """Token ids to text, whole characters only; has the face of a Harmony parser.

    Control tokens are left out; bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.content_open = True
        self.reasoning_tokens = 0
        self.tool_calls = 0
        self.recoveries: dict[str, int] = {}

    def feed(self, tokens: Sequence[int]) -> list[Event]:
        """Returns the text that `tokens` complete, as one event or none."""
        pieces = [
            self._vocabulary.token_bytes(token) for token in tokens if 0 <= token < ORDINARY_TOKENS
        ]
        text = self._utf8.decode(b"".join(pieces))
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """Returns what was held back: U+FFFD for a character that never became whole."""
        text = self._utf8.decode(b"", final=True)
        return [Content(text)] if text else []
