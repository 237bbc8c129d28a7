"""Events as the server-sent events of one Anthropic message.

message_start, then each content block as its start, deltas and stop, then message_delta with the
stop reason and the usage, then message_stop. This runs for every token of every stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from serving.errors import ServingError
from serving.events import (
    ChoiceEvent,
    Content,
    Event,
    Finished,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from serving.protocols.edge.dialect import describe_for_anthropic
from serving.protocols.edge.presenters import Streamed
from serving.protocols.messages.facts import UNSIGNED, MessageFacts, stop_fields, usage_object

_encode = msgspec.json.Encoder().encode


class MessageStream(Streamed):
    """Encodes the events of one response, in order. A block ends where another kind begins."""

    def __init__(self, facts: MessageFacts) -> None:
        self._facts = facts
        self._index = -1
        self._open: type[Event] | None = None
        self._delta = b""
        """The event of a delta up to its type, for the block that is open."""

    def begin(self) -> bytes:
        """Returns the event that opens the message; its usage is what is known by then."""
        usage = Usage(self._facts.prompt_tokens, 0, 0, 0)
        message = {
            **self._facts.head(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(usage),
        }
        return _event("message_start", {"message": message})

    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns what these events become; nothing, where they are reasoning that is not shown."""
        if len(events) == 1:
            return self._encode(events[0][1])
        return b"".join([self._encode(event) for _, event in events])

    def end(self) -> bytes:
        """Returns what follows the last event."""
        return _event("message_stop", {})

    def fail(self, error: ServingError) -> bytes:
        """Returns the event that ends a stream which has failed."""
        described = describe_for_anthropic(error, self._facts.request_id)
        return b"event: error\ndata: " + _encode(described) + b"\n\n"

    def _encode(self, event: Event) -> bytes:
        if type(event) is Content:
            opening = b"" if self._open is Content else self._start(Content, _TEXT)
            text = b'"text_delta","text":' + _encode(event.text)
            return opening + self._delta + text + b"}}\n\n"
        if type(event) is Reasoning:
            return self._thinking(event)
        if type(event) is ToolCallArguments:
            text = b'"input_json_delta","partial_json":' + _encode(event.text)
            return self._delta + text + b"}}\n\n"
        if type(event) is ToolCallStart:
            block = {
                "type": "tool_use",
                "id": self._facts.make_call_id(),
                "name": event.name,
                "input": {},
            }
            return self._start(ToolCallStart, block)
        if type(event) is Finished:
            usage = usage_object(event.usage)
            fields = {"delta": stop_fields(event), "usage": usage}
            return self._stop() + _event("message_delta", fields)
        raise TypeError(f"not an event: {type(event).__name__}")

    def _thinking(self, event: Reasoning) -> bytes:
        if self._facts.thinking == "none":
            return b""
        opening = b"" if self._open is Reasoning else self._start(Reasoning, _THINKING)
        if self._facts.thinking == "empty":
            return opening
        text = b'"thinking_delta","thinking":' + _encode(event.text)
        return opening + self._delta + text + b"}}\n\n"

    def _start(self, kind: type[Event], block: Mapping[str, object]) -> bytes:
        """Returns the events that close the open block and begin another."""
        closing = self._stop()
        self._open = kind
        self._index += 1
        self._delta = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":' % self._index
        )
        fields = {"index": self._index, "content_block": block}
        return closing + _event("content_block_start", fields)

    def _stop(self) -> bytes:
        """Returns the events that close the open block, if one is."""
        if self._open is None:
            return b""
        signature = b""
        if self._open is Reasoning:
            signature = (
                self._delta + b'"signature_delta","signature":' + _encode(UNSIGNED) + b"}}\n\n"
            )
        self._open = None
        return signature + _event("content_block_stop", {"index": self._index})


_TEXT: dict[str, object] = {"type": "text", "text": ""}
_THINKING: dict[str, object] = {"type": "thinking", "thinking": "", "signature": ""}


def _event(name: str, fields: Mapping[str, object]) -> bytes:
    data = _encode({"type": name, **fields})
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
