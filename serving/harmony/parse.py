"""The token ids that a model generates as events, one feed at a time.

The parser accepts any sequence of ids. Where a stream breaks the rules of Harmony it goes on with
the likeliest meaning and counts what it did in `Parser.recoveries`: a malformed header must never
cost a request.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Final

from serving.events import (
    BuiltInCallStart,
    Content,
    Event,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
)
from serving.harmony.header import Header, Kind, Section, read
from serving.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    MESSAGE,
    ORDINARY_TOKENS,
    RETURN,
    START,
    Vocabulary,
)

MAX_HEADER_TOKENS: Final = 96
"""A header that is longer is no header: it is shown as a body. A name of 64 characters fits."""

SEPARATOR: Final = "\n\n"
"""Stands between the texts of two messages that are shown as one (preamble and final answer)."""

RECOVERIES: Final = (
    "missing_start",  # a message without <|start|>
    "missing_end",  # a message that began before the last one had ended
    "missing_message",  # a header that ended without <|message|>
    "missing_channel",
    "unknown_channel",
    "malformed_header",  # words that mean nothing beside those that do
    "unexpected_role",  # a message of a role that is not the model's to play
    "repeated_recipient",
    "tool_name",  # an offered tool's name with something before or behind it
    "unoffered_tool",
    "stray_token",  # a control token where it means nothing, or an id outside of the vocabulary
)
"""Every way in which a stream can be mended: the values of a metric's label."""

_HEADER_WORDS: Final = (
    *("assistant", "analysis", "commentary", "final"),
    *("to=", "functions.", "json", "code", "text"),
)
_ENDS: Final = frozenset((END, RETURN, CALL, END_OF_TEXT))


class Parser:
    """Parses one choice. Parsing starts inside a header: the prompt ends in `<|start|>assistant`.

    What a message is shown as depends on its recipient, then on its channel: a call of an offered
    tool, a function or one of the `built_in` recipients, on whatever channel is a tool call;
    analysis is reasoning; commentary without a recipient (a preamble), final and anything else are
    content. A message to a tool that was not offered is reasoning on the analysis channel and
    content elsewhere: shown, not executed, and not lost.

    `<|call|>` and `<|return|>` end a message, as `<|end|>` does, and not the parser: tokens after
    them (`ignore_eos`, or an engine that does not stop at a call) are parsed as further messages,
    and as content where they are none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tools: frozenset[str] = frozenset(),
        built_in: frozenset[str] = frozenset(),
    ) -> None:
        self.reasoning_tokens = 0
        """Tokens of message bodies that were shown as reasoning: no headers, no control tokens."""
        self.tool_calls = 0
        """How many calls have begun, those of built-in tools among them."""
        self.content_open = False
        """Whether the next token, when it is ordinary, adds to `Content` (maybe held back until a
        character is whole). True before and after feeding one token: it was a content token."""
        self.recoveries: dict[str, int] = {}
        """What was wrong with the stream and mended: one of RECOVERIES -> how often."""
        self._texts = vocabulary.texts
        self._token_bytes = vocabulary.token_bytes
        self._tools = tools
        self._built_in = built_in
        # In a header it is a list; in a body, or between two messages, None.
        self._header: list[int] | None = []
        self._role_expected = False
        self._open = False
        self._kind = Kind.CONTENT
        # In a body: bytes of a character that is not whole yet, and what goes before the next text.
        self._held = b""
        self._lead = ""
        self._shown: set[Kind] = set()
        # The texts of the body's tokens in this feed, one a token, empty where bytes are held back.
        self._run: list[str] = []
        # In a body that has shown text and holds nothing back: a whole-text token is an event.
        self._flowing = False

    def feed(self, tokens: Sequence[int]) -> list[Event]:
        """Returns the events of the next tokens. Adjacent texts of one kind are one event."""
        texts = self._texts
        if self._flowing and len(tokens) == 1:
            token = tokens[0]
            text = texts[token] if 0 <= token < ORDINARY_TOKENS else None
            if text is not None:
                if self._kind is Kind.CONTENT:
                    return [Content(text)]
                if self._kind is Kind.REASONING:
                    self.reasoning_tokens += 1
                    return [Reasoning(text)]
                return [ToolCallArguments(self.tool_calls - 1, text)]
        events: list[Event] = []
        run = self._run
        for token in tokens:
            if self._flowing:
                text = texts[token] if 0 <= token < ORDINARY_TOKENS else None
                if text is not None:
                    run.append(text)
                    continue
            self._step(token, events)
        if run:
            self._end_run(events)
        return events

    def finish(self) -> list[Event]:
        """Returns the events of what was held back, now that no token follows.

        The bytes of an unfinished character become U+FFFD. Text where a header should be is shown
        as a body, unless it is the beginning of a header that the end has cut off.
        """
        events: list[Event] = []
        if self._open:
            self._close(events)
        elif self._header:
            self._salvage(events, ended_by=None)
        self._header = None
        return events

    def _step(self, token: int, events: list[Event]) -> None:
        """Consumes a token that is not simply more text of a body."""
        if 0 <= token < ORDINARY_TOKENS:
            if self._open:
                self._extend_body(token)
            else:
                self._extend_header(token, events)
        elif token in _ENDS:
            self._end_message(token, events)
        elif token == START:
            self._start_message(events)
        elif token == CHANNEL:
            if self._open:
                self._count("missing_end")
                self._close(events)
            self._extend_header(token, events)
        elif token == MESSAGE and not self._open:
            self._end_header(events)
        elif token == CONSTRAIN and self._header is not None:
            self._extend_header(token, events)
        else:
            self._count("stray_token")

    def _count(self, recovery: str) -> None:
        self.recoveries[recovery] = self.recoveries.get(recovery, 0) + 1

    def _start_message(self, events: list[Event]) -> None:
        if self._open:
            self._count("missing_end")
            self._close(events)
        elif self._header:
            self._salvage(events, ended_by=START)
        elif self._header is not None:
            self._count("stray_token")
        self._header = []
        self._role_expected = True

    def _end_message(self, token: int, events: list[Event]) -> None:
        if self._open:
            self._close(events)
        elif self._header is not None:
            self._salvage(events, ended_by=token)
        else:
            self._count("stray_token")
        self._header = None

    def _extend_header(self, token: int, events: list[Event]) -> None:
        if self._header is None:
            self._count("missing_start")
            self._header = []
            self._role_expected = False
        self._header.append(token)
        if len(self._header) > MAX_HEADER_TOKENS:
            self._show_header(events)

    def _end_header(self, events: list[Event]) -> None:
        """Opens the body that the header announces."""
        if self._header is None:
            self._count("missing_start")
        header = self._read_header(complete=True)
        if header.rest and "unknown_channel" not in header.oddities:
            self._count("malformed_header")
        self._open_body(header, events)

    def _show_header(self, events: list[Event]) -> None:
        """Opens a body with the text of a header that has grown too long to be one."""
        data = self._header_bytes(self._header or [])[-1][1]
        held = data[codecs.utf_8_decode(data, "replace", False)[1] :]
        header = self._read_header(complete=False, cut_bytes=len(held))
        self._count("missing_message")
        self._open_body(header, events)
        if header.rest:
            self._show(self._first(header.rest), events)
        self._held = held
        self._flowing = bool(header.rest) and not held

    def _salvage(self, events: list[Event], ended_by: int | None) -> None:
        """Shows what a header that never came to `<|message|>` holds besides a header."""
        header = self._read_header(complete=False)
        text = header.rest
        if ended_by is None and _may_begin_header(text):
            text = ""
        called = header.kind is Kind.CALL and ended_by == CALL
        if ended_by is not None or text:
            self._count("missing_message")
        if text or called:
            self._open_body(header, events)
            if text:
                self._show(self._first(text), events)
            self._close(events)

    def _read_header(self, *, complete: bool, cut_bytes: int = 0) -> Header:
        """Returns the meaning of the header so far, `cut_bytes` at its end left out."""
        parts = self._header_bytes(self._header or [])
        if cut_bytes:
            parts[-1] = (parts[-1][0], parts[-1][1][:-cut_bytes])
        sections = [Section(marker, data.decode("utf-8", "replace")) for marker, data in parts]
        return read(
            sections,
            self._tools,
            self._built_in,
            role_expected=self._role_expected,
            complete=complete,
        )

    def _header_bytes(self, header: list[int]) -> list[tuple[int, bytes]]:
        """Returns the sections of a header as (control token before it, bytes)."""
        sections: list[tuple[int, list[bytes]]] = [(START, [])]
        for token in header:
            if token in (CHANNEL, CONSTRAIN):
                sections.append((token, []))
            else:
                sections[-1][1].append(self._token_bytes(token))
        return [(marker, b"".join(pieces)) for marker, pieces in sections]

    def _open_body(self, header: Header, events: list[Event]) -> None:
        for oddity in header.oddities:
            self._count(oddity)
        self._header = None
        self._open = True
        self._kind = header.kind
        self._lead = SEPARATOR if header.kind in self._shown else ""
        self.content_open = header.kind is Kind.CONTENT
        if header.tool is not None:
            if header.built_in is not None:
                events.append(BuiltInCallStart(self.tool_calls, header.tool, header.built_in))
            else:
                events.append(ToolCallStart(self.tool_calls, header.tool))
            self.tool_calls += 1

    def _extend_body(self, token: int) -> None:
        """Adds a token to a body that has shown nothing yet or holds bytes back."""
        data = self._held + self._token_bytes(token)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        self._run.append(self._first(text) if text else "")
        self._flowing = not self._held

    def _close(self, events: list[Event]) -> None:
        self._end_run(events)
        if self._held:
            self._show(self._first(self._held.decode("utf-8", "replace")), events)
        self._held = b""
        self._open = self._flowing = self.content_open = False

    def _first(self, text: str) -> str:
        """Returns text that may be the first of its message with what goes before it."""
        if self._kind is not Kind.CALL:
            self._shown.add(self._kind)
        text = self._lead + text
        self._lead = ""
        return text

    def _end_run(self, events: list[Event]) -> None:
        if self._kind is Kind.REASONING:
            self.reasoning_tokens += len(self._run)
        text = "".join(self._run)
        self._run.clear()
        if text:
            self._show(text, events)

    def _show(self, text: str, events: list[Event]) -> None:
        """Appends an event, or adds to the last one when that is of the same kind."""
        last = events[-1] if events else None
        if self._kind is Kind.CONTENT:
            if isinstance(last, Content):
                events[-1] = Content(last.text + text)
            else:
                events.append(Content(text))
        elif self._kind is Kind.REASONING:
            if isinstance(last, Reasoning):
                events[-1] = Reasoning(last.text + text)
            else:
                events.append(Reasoning(text))
        elif isinstance(last, ToolCallArguments):
            events[-1] = ToolCallArguments(last.index, last.text + text)
        else:
            events.append(ToolCallArguments(self.tool_calls - 1, text))


def _may_begin_header(text: str) -> bool:
    """Whether `text` may be the beginning of a word of a header that was cut off."""
    return any(word.startswith(text.strip()) for word in _HEADER_WORDS)
