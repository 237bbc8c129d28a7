"""From the items of a Responses request to the messages of a chat request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from serving.api.responses.items import (
    CodeInterpreterCallItem,
    CompactionItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    ReasoningItem,
    WebSearchCallItem,
    text_of,
)
from serving.errors import ErrorKind, ServingError
from serving.harmony.parse import SEPARATOR

Message = dict[str, Any]

SUMMARY = (
    "(A summary of the conversation up to here, made by the assistant to save room. The user's own "
    "messages stand before it.)"
)
"""What the model is told of where a summary comes from."""


def make_messages(
    earlier: Sequence[InputItem], own: str | Sequence[InputItem], instructions: str | None
) -> list[Message]:
    """Returns the messages of a chat request: instructions, `earlier` items, then the request's.

    Items of the model that follow one another are one turn: reasoning and text before a call are
    the call's reasoning and preamble; calls of built-in tools are left out. References must have
    been put in place of. Raises ServingError for a function's output without its call.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "developer", "content": instructions})
    called: set[str] = set()
    run: list[ReasoningItem | MessageItem | FunctionCallItem] = []
    for index, item in enumerate([*earlier, *_items(own)], -len(earlier)):
        if isinstance(item, CodeInterpreterCallItem | WebSearchCallItem):
            # Part of the reasoning, whose text says what came of it.
            continue
        if isinstance(item, FunctionCallItem):
            called.add(item.call_id)
            run.append(item)
        elif isinstance(item, ReasoningItem) or (
            isinstance(item, MessageItem) and item.role == "assistant"
        ):
            if run and isinstance(run[-1], FunctionCallItem):
                messages += _turns(run)
                run.clear()
            run.append(item)
        else:
            messages += _turns(run)
            run.clear()
            if isinstance(item, MessageItem):
                messages.append({"role": item.role, "content": text_of(item.content)})
            elif isinstance(item, FunctionCallOutputItem):
                messages.append(_result(item, called, index))
            elif isinstance(item, CompactionItem):
                # The user's role, not the developer's: tools may have a part in what it says.
                messages.append({"role": "user", "content": f"{SUMMARY}\n\n{item.summary}"})
    return messages + _turns(run)


def _items(own: str | Sequence[InputItem]) -> Sequence[InputItem]:
    return [MessageItem(role="user", content=own)] if isinstance(own, str) else own


def _turns(run: Iterable[ReasoningItem | MessageItem | FunctionCallItem]) -> list[Message]:
    """Returns one assistant message with all of the run's calls, or one for each text."""
    turns: list[Message] = []
    reasoning: list[str] = []
    texts: list[str] = []
    calls: list[Message] = []
    for item in run:
        if isinstance(item, ReasoningItem):
            reasoning.append(item.text)
        elif isinstance(item, MessageItem):
            texts.append(text_of(item.content))
            turns.append(_assistant(reasoning, texts[-1:], []))
            reasoning = []
        else:
            calls.append(_call(item))
    if calls:
        thoughts = [turn["reasoning"] for turn in turns if "reasoning" in turn] + reasoning
        return [_assistant(thoughts, texts, calls)]
    return turns + ([_assistant(reasoning, [], [])] if any(reasoning) else [])


def _assistant(reasoning: list[str], texts: list[str], calls: list[Message]) -> Message:
    """Returns an assistant message without the fields that it has no use for."""
    message: Message = {"role": "assistant"}
    if text := SEPARATOR.join(text for text in reasoning if text):
        message["reasoning"] = text
    if texts:
        message["content"] = SEPARATOR.join(texts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(item: FunctionCallItem) -> Message:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _result(item: FunctionCallOutputItem, called: set[str], index: int) -> Message:
    """Returns a tool message. `index` is the item's place in the request's own input."""
    if item.call_id not in called:
        param = f"input[{index}].call_id"
        raise ServingError(
            ErrorKind.INVALID_VALUE, f"'{param}' names no earlier function call.", param=param
        )
    return {"role": "tool", "tool_call_id": item.call_id, "content": text_of(item.output)}
