"""Events as one Anthropic message."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.events import (
    ChoiceEvent,
    Content,
    Event,
    Finished,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
)
from serving.protocols.edge.presenters import Whole
from serving.protocols.messages.answers import AnsweredMessage, Block
from serving.protocols.messages.facts import UNSIGNED, MessageFacts, stop_fields, usage_object

RAW_INPUT = "_raw"
"""The key under which arguments are handed on that are no JSON object: `input` must be one."""


class MessageAnswer(Whole):
    """Collects the events of one response. A block ends where another kind begins."""

    def __init__(self, facts: MessageFacts) -> None:
        self._facts = facts
        self._blocks: list[tuple[Event, list[str]]] = []
        self._finished: Finished | None = None

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        for _, event in events:
            if isinstance(event, Finished):
                self._finished = event
            elif isinstance(event, ToolCallStart):
                self._blocks.append((event, []))
            elif isinstance(event, ToolCallArguments):
                self._blocks[-1][1].append(event.text)
            elif isinstance(event, Content) or (
                isinstance(event, Reasoning) and self._facts.thinking != "none"
            ):
                if not self._blocks or type(self._blocks[-1][0]) is not type(event):
                    self._blocks.append((event, []))
                self._blocks[-1][1].append(event.text)

    def body(self) -> AnsweredMessage:
        """Returns the object. Raises ValueError before the last event."""
        if self._finished is None:
            raise ValueError("the answer has not finished")
        return {
            **self._facts.head(),
            "content": [self._block(opening, "".join(text)) for opening, text in self._blocks],
            **stop_fields(self._finished),
            "usage": usage_object(self._finished.usage),
        }

    def _block(self, opening: Event, text: str) -> Block:
        if isinstance(opening, ToolCallStart):
            return {
                "type": "tool_use",
                "id": self._facts.make_call_id(),
                "name": opening.name,
                "input": read_input(text),
            }
        if isinstance(opening, Reasoning):
            shown = text if self._facts.thinking == "full" else ""
            return {"type": "thinking", "thinking": shown, "signature": UNSIGNED}
        return {"type": "text", "text": text}


def read_input(arguments: str) -> dict[str, Any]:
    """Returns the arguments of a call as an object, whatever the model wrote."""
    if not arguments.strip():
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {RAW_INPUT: arguments}
