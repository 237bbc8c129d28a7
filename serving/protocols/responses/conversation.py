"""From the items of a Responses request to the turns of a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant, Developer, ToolCall, ToolResult, Turn, User
from serving.harmony.parse import SEPARATOR
from serving.protocols.edge.content import plain_text
from serving.protocols.responses.items import (
    CodeInterpreterCallItem,
    CompactionItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    ReasoningItem,
    WebSearchCallItem,
)

SUMMARY = (
    "(A summary of the conversation up to here, made by the assistant to save room. The user's own "
    "messages stand before it.)"
)
"""Tells the model where a summary comes from."""

Said = ReasoningItem | MessageItem | FunctionCallItem
"""An item of the model."""


def make_turns(
    earlier: Sequence[InputItem], own: Sequence[InputItem], instructions: str | None
) -> Iterator[Turn]:
    """Yields the turns: instructions, `earlier` items, then the request's own.

    Items of the model that follow one another are one turn: reasoning and text before a call are
    the call's reasoning and preamble; calls of built-in tools are left out. References must have
    been replaced. Raises ServingError for a function's output without its call.
    """
    if instructions:
        yield Developer(instructions=instructions)
    names: dict[str, str] = {}
    run: list[Said] = []
    for index, item in enumerate([*earlier, *own], -len(earlier)):
        if isinstance(item, CodeInterpreterCallItem | WebSearchCallItem):
            # Part of the reasoning, whose text tells its result.
            continue
        if isinstance(item, FunctionCallItem):
            names[item.call_id] = item.name
            run.append(item)
        elif isinstance(item, ReasoningItem) or (
            isinstance(item, MessageItem) and item.role == "assistant"
        ):
            if run and isinstance(run[-1], FunctionCallItem):
                yield from _assistant_turns(run)
                run = []
            run.append(item)
        else:
            yield from _assistant_turns(run)
            run = []
            yield from _given_turn(item, names, index)
    yield from _assistant_turns(run)


def _given_turn(item: InputItem, names: dict[str, str], index: int) -> Iterator[Turn]:
    """Yields the turn of an item that is not the model's; `index` is its place in the input."""
    if isinstance(item, MessageItem):
        text = plain_text(item.content)
        yield User(text=text) if item.role == "user" else Developer(instructions=text)
    elif isinstance(item, FunctionCallOutputItem):
        if item.call_id not in names:
            place = f"input[{index}].call_id"
            raise ServingError(
                ErrorKind.INVALID_VALUE, f"'{place}' names no earlier function call.", param=place
            )
        yield ToolResult(name=names[item.call_id], text=plain_text(item.output))
    elif isinstance(item, CompactionItem):
        # The user's role, not the developer's: tools may have a part in what it says.
        yield User(text=f"{SUMMARY}\n\n{item.summary}")


def _assistant_turns(run: Iterable[Said]) -> list[Assistant]:
    """Returns one turn with all of the run's calls, or one for each text."""
    turns: list[Assistant] = []
    reasoning: list[str] = []
    texts: list[str] = []
    calls: list[ToolCall] = []
    for item in run:
        if isinstance(item, ReasoningItem):
            reasoning.append(item.text)
        elif isinstance(item, MessageItem):
            texts.append(plain_text(item.content))
            turns.append(Assistant(reasoning=_joined(reasoning), content=texts[-1]))
            reasoning = []
        else:
            calls.append(ToolCall(name=item.name, arguments=item.arguments))
    if calls:
        thoughts = [turn.reasoning or "" for turn in turns] + reasoning
        content = SEPARATOR.join(texts) if texts else None
        return [Assistant(reasoning=_joined(thoughts), content=content, calls=tuple(calls))]
    return turns + ([Assistant(reasoning=_joined(reasoning))] if any(reasoning) else [])


def _joined(texts: Iterable[str]) -> str | None:
    return SEPARATOR.join(filter(None, texts)) or None
