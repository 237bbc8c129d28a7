"""Events as `chat.completion.chunk` objects in server-sent events.

This runs for every token of every stream. What is equal in all chunks of a choice is encoded once;
a token costs the JSON encoding of its text and one concatenation.
"""

from __future__ import annotations

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
from serving.protocols.chat.facts import ChatFacts
from serving.protocols.edge.logprobs import logprob_entries
from serving.protocols.edge.presenters import Streamed
from serving.protocols.edge.server_events import DONE, encode_error
from serving.protocols.edge.usage import usage_object

_encode = msgspec.json.Encoder().encode


class ChatStream(Streamed):
    """Encodes the chunks of one response, in order.

    The first chunk of each choice has the role alone, the last one the finish reason alone. With
    `include_usage` every chunk has `usage`, null but in one more chunk at the end, which has no
    choices; without it no chunk is without choices.
    """

    def __init__(self, facts: ChatFacts, *, include_usage: bool) -> None:
        self._facts = facts
        self._include_usage = include_usage
        self._usages: dict[int, Usage] = {}
        self._end = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._running_end = b',"finish_reason":null}]' + self._end
        head = self._head()
        self._starts = [head + b'[{"index":%d,"delta":' % choice for choice in range(facts.choices)]

    def begin(self) -> bytes:
        """Returns the chunks that open every choice."""
        role = b'{"role":"assistant","content":""}'
        return b"".join(start + role + self._running_end for start in self._starts)

    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns one chunk for each event."""
        if len(events) == 1:
            return self._chunk(*events[0])
        return b"".join([self._chunk(choice, event) for choice, event in events])

    def end(self) -> bytes:
        """Returns what follows the last event of the last choice."""
        if not self._include_usage:
            return DONE
        usage = _encode(usage_object(self._usages.values()))
        return self._head() + b'[],"usage":' + usage + b"}\n\n" + DONE

    def fail(self, error: ServingError) -> bytes:
        """Returns the event that ends a stream which has failed; no `[DONE]` follows it."""
        return encode_error(error)

    def _head(self) -> bytes:
        """Returns a chunk up to the value of `choices`."""
        facts = self._facts
        fields: dict[str, object] = {
            "id": facts.id,
            "object": "chat.completion.chunk",
            "created": facts.created,
            "model": facts.model,
            "system_fingerprint": facts.fingerprint,
        }
        if facts.service_tier is not None:
            fields["service_tier"] = facts.service_tier
        return b"data: " + _encode(fields)[:-1] + b',"choices":'

    def _chunk(self, choice: int, event: Event) -> bytes:
        start = self._starts[choice]
        if type(event) is Content:
            delta = b'{"content":' + _encode(event.text) + b"}"
            if event.logprobs is not None:
                delta += b',"logprobs":' + self._logprobs(event)
            return start + delta + self._running_end
        if type(event) is Reasoning:
            text = _encode(event.text)
            delta = b'{"reasoning":' + text + b',"reasoning_content":' + text + b"}"
            return start + delta + self._running_end
        if type(event) is ToolCallArguments:
            delta = (
                b'{"tool_calls":[{"index":%d,"function":{"arguments":' % event.index
                + _encode(event.text)
                + b"}}]}"
            )
            return start + delta + self._running_end
        if type(event) is ToolCallStart:
            return start + self._call(event) + self._running_end
        if type(event) is Finished:
            self._usages[choice] = event.usage
            return start + b'{},"finish_reason":"%s"}]' % event.reason.encode() + self._end
        raise TypeError(f"not an event: {type(event).__name__}")

    def _call(self, event: ToolCallStart) -> bytes:
        call = {
            "index": event.index,
            "id": self._facts.make_call_id(),
            "type": "function",
            "function": {"name": event.name, "arguments": ""},
        }
        return b'{"tool_calls":[' + _encode(call) + b"]}"

    def _logprobs(self, event: Content) -> bytes:
        entries = logprob_entries(event.logprobs or (), self._facts.vocabulary)
        return _encode({"content": entries, "refusal": None})
