"""Between responses and the store: what a request builds on, and what is kept of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from serving.api.responses.background import Background
from serving.api.responses.items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    RefusalPart,
    text_of,
)
from serving.api.responses.object import ResponseObject
from serving.api.responses.output import Output
from serving.api.responses.schema import PromptFields
from serving.errors import ErrorKind, ServingError
from serving.pipeline import Events
from serving.settings import Settings
from serving.store.responses import ResponseStore

Json = dict[str, Any]

TENANT = "default"
"""Whose responses they are. The store keeps those of different tenants apart."""

_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


@dataclass(frozen=True, slots=True)
class Context:
    """What a request refers to: the items of the conversation so far, and its own input."""

    earlier: Sequence[InputItem]
    own: str | Sequence[InputItem]
    """Without references."""
    referenced: dict[str, Json]
    """Stored items by their ids."""


def needs_store(request: PromptFields) -> bool:
    """Returns whether a request refers to what is stored."""
    return request.previous_response_id is not None or bool(_references(request))


def plain_context(request: PromptFields) -> Context:
    """Returns the context of a request that refers to nothing."""
    return Context((), request.input, {})


async def read_context(
    request: PromptFields, store: ResponseStore, background: Background, settings: Settings
) -> Context:
    """Returns what a request refers to. Raises ServingError (NOT_FOUND) for what is not there."""
    earlier: list[Json] = []
    if request.previous_response_id is not None:
        if background.body(request.previous_response_id) is not None:
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                "That response has not come to its end.",
                param="previous_response_id",
            )
        found = await store.conversation(
            TENANT, request.previous_response_id, settings.limits.body_bytes
        )
        if found is None:
            raise ServingError(
                ErrorKind.NOT_FOUND,
                "There is no such response here, or one before it is gone.",
                param="previous_response_id",
            )
        earlier = found
    named = _references(request)
    referenced = await store.items(TENANT, [*named.values()]) if named else {}
    for index, name in named.items():
        if name not in referenced:
            raise ServingError(
                ErrorKind.NOT_FOUND, "There is no such item here.", param=f"input[{index}].id"
            )
    own = request.input
    if not isinstance(own, str):
        items = iter(_ITEMS.validate_python([referenced[name] for name in named.values()]))
        own = [next(items) if isinstance(item, ItemReference) else item for item in own]
    return Context(_ITEMS.validate_python(earlier), own, referenced)


def given_items(request: PromptFields, context: Context, make_id: Callable[[], str]) -> list[Json]:
    """Returns the items of a request's own input as they are stored, each with an id."""
    if isinstance(request.input, str):
        return [_given(MessageItem(role="user", content=request.input), make_id)]
    return [
        context.referenced[item.id] if isinstance(item, ItemReference) else _given(item, make_id)
        for item in request.input
    ]


async def keeping(
    events: Events,
    output: Output,
    response: ResponseObject,
    save: Callable[[Json], Awaitable[bool]],
    now: Callable[[], float],
) -> Events:
    """Yields `events`, and saves the response before its end is told.

    One that failed is saved where its id has been told: after the first events. One whose client
    has left is not.
    """
    told = False
    try:
        async for batch in events:
            yield batch
            told = True
    except ServingError as error:
        if told:
            response.stored = await save(response.failed(output, error))
        raise
    else:
        response.stored = await save(response.ended(output, now()))
    finally:
        await events.aclose()


def _references(request: PromptFields) -> dict[int, str]:
    """Returns the places and the ids of the input's references."""
    if isinstance(request.input, str):
        return {}
    return {i: item.id for i, item in enumerate(request.input) if isinstance(item, ItemReference)}


def _given(item: InputItem, make_id: Callable[[], str]) -> Json:
    """Returns an item in the form in which the API lists it."""
    if isinstance(item, MessageItem):
        return {
            "id": f"msg_{make_id()}",
            "type": "message",
            "role": item.role,
            "status": "completed",
            "content": _parts(item),
        }
    if isinstance(item, FunctionCallItem):
        return {**item.model_dump(), "id": f"fc_{make_id()}", "status": "completed"}
    if isinstance(item, FunctionCallOutputItem):
        return {
            "id": f"fco_{make_id()}",
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": text_of(item.output),
            "status": "completed",
        }
    if isinstance(item, ReasoningItem):
        return {
            "id": f"rs_{make_id()}",
            "type": "reasoning",
            "summary": [part.model_dump() for part in item.summary],
            "content": [{"type": "reasoning_text", "text": item.text}],
        }
    raise TypeError("a reference is not an item of its own")


def _parts(item: MessageItem) -> list[Json]:
    """Returns the content of a message as parts."""
    assistant = item.role == "assistant"
    if isinstance(item.content, str):
        return [_text_part(item.content, assistant)]
    return [
        part.model_dump()
        if isinstance(part, RefusalPart) and assistant
        else _text_part(text_of([part]), assistant)
        for part in item.content
    ]


def _text_part(text: str, assistant: bool) -> Json:
    if assistant:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
