"""Items as the API lists them: those of a client with ids, and pages of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams

from serving.protocols.edge.answers import Json
from serving.protocols.edge.content import RefusalPart, plain_text
from serving.protocols.edge.query import wrong
from serving.protocols.responses.items import (
    PREFIXES,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    seal,
)
from serving.protocols.responses.schema import ENCRYPTED_REASONING, INCLUDABLE

INCLUDE: dict[str, Json] = {"include": {"type": "array", "items": {"enum": sorted(INCLUDABLE)}}}
"""The query that asks for more parts of items."""


def given_items(
    items: Sequence[InputItem], referenced: Mapping[str, Json], make_id: Callable[[], str]
) -> list[Json]:
    """Returns a client's items as they are stored, each with an id."""
    return [
        referenced[item.id] if isinstance(item, ItemReference) else _given(item, make_id)
        for item in items
    ]


def read_includes(query: QueryParams) -> frozenset[str]:
    """Returns the parts that `include` or `include[]` names. Raises ServingError for others."""
    named = [*query.getlist("include"), *query.getlist("include[]")]
    for name in named:
        if name not in INCLUDABLE:
            raise wrong("include", f"has no such part: '{name[:64]}'")
    return frozenset(named)


def listed(items: Sequence[Mapping[str, Any]], includes: frozenset[str], *, has_more: bool) -> Json:
    """Returns one page as a list."""
    return {
        "object": "list",
        "data": [with_included(item, includes) for item in items],
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def with_included(item: Mapping[str, Any], includes: frozenset[str]) -> Mapping[str, Any]:
    """Returns an item with the parts that it can have and that were asked for."""
    if item["type"] == "reasoning" and ENCRYPTED_REASONING in includes:
        texts: Sequence[Mapping[str, str]] = item.get("content") or item["summary"]
        return {**item, "encrypted_content": seal("".join(part["text"] for part in texts))}
    return item


def _given(item: InputItem, make_id: Callable[[], str]) -> Json:
    """Returns an item in the form in which the API lists it."""
    fields = {"id": f"{PREFIXES[item.type]}_{make_id()}", **item.model_dump()}
    if isinstance(item, MessageItem | FunctionCallItem | FunctionCallOutputItem):
        fields["status"] = "completed"
    if isinstance(item, MessageItem):
        fields["content"] = _parts(item)
    elif isinstance(item, FunctionCallOutputItem):
        fields["output"] = plain_text(item.output)
    elif isinstance(item, ReasoningItem):
        del fields["encrypted_content"]
        fields["content"] = [{"type": "reasoning_text", "text": item.text}]
    return fields


def _parts(item: MessageItem) -> list[Json]:
    """Returns the content of a message as parts."""
    assistant = item.role == "assistant"
    if isinstance(item.content, str):
        return [_text_part(item.content, assistant)]
    return [
        part.model_dump()
        if isinstance(part, RefusalPart) and assistant
        else _text_part(plain_text([part]), assistant)
        for part in item.content
    ]


def _text_part(text: str, assistant: bool) -> Json:
    if assistant:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
