"""What the events and the whole message of one Anthropic request have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serving.events import Finished, FinishReason, Usage
from serving.protocols.messages.answers import Head, MessageUsage, StopFields, StopReason

ThinkingShown = Literal["full", "empty", "none"]
"""Of the reasoning: its text, blocks without the text, or nothing."""

UNSIGNED = "unsigned"
"""The signature of a thinking block. Some clients drop a block that has none; nobody checks it."""

_STOP_REASONS: dict[FinishReason, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """The identity of one response."""

    id: str
    request_id: str
    model: str
    prompt_tokens: int
    thinking: ThinkingShown
    make_call_id: Callable[[], str]

    def head(self) -> Head:
        """Returns the fields before `content`."""
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}


def stop_fields(finished: Finished) -> StopFields:
    """Returns `stop_reason` and `stop_sequence`."""
    matched = finished.stop_string
    return {
        "stop_reason": _STOP_REASONS[finished.reason] if matched is None else "stop_sequence",
        "stop_sequence": matched,
    }


def usage_object(usage: Usage) -> MessageUsage:
    """Returns Anthropic's `usage`: `input_tokens` are those that the cache did not have."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
