"""Between responses and the store: what a request builds on, and what is kept of its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.generation.pipeline import Events
from serving.protocols.responses.background import Background, Save, public_error
from serving.protocols.responses.items import (
    CodeInterpreterCallItem,
    CompactionItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    RefusalPart,
    WebSearchCallItem,
    text_of,
)
from serving.protocols.responses.object import Body, ResponseObject
from serving.protocols.responses.output import Output
from serving.protocols.responses.recent import Recent
from serving.protocols.responses.schema import History
from serving.settings import Settings
from serving.store.stores import Stores

Json = dict[str, Any]

_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


@dataclass(frozen=True, slots=True)
class Context:
    """What a request refers to: the items of the conversation so far, and its own input."""

    earlier: Sequence[InputItem]
    own: str | Sequence[InputItem]
    """Without references."""
    referenced: dict[str, Json]
    """Stored items by their ids."""
    history: Sequence[Mapping[str, Any]]
    """`earlier`, as it is stored."""
    stored: frozenset[str] = frozenset()
    """The ids of the stored responses in `earlier`, as far as the connection knows them."""


def require_store(request: History, settings: Settings, recent: Recent | None = None) -> None:
    """Raises ServingError that names the field of `request` which needs a store, without one.

    A connection with `recent` responses needs none to continue them.
    """
    if settings.store.enabled:
        return
    for field in ("background", "conversation", "previous_response_id"):
        if field == "previous_response_id" and recent is not None:
            continue
        if getattr(request, field, None):
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{field}' needs the store of responses, which is off.",
                param=field,
            )


def needs_store(request: History) -> bool:
    """Returns whether a request refers to what is stored."""
    history = request.previous_response_id is not None or request.conversation is not None
    return history or bool(references(request.input))


def plain_context(request: History) -> Context:
    """Returns the context of a request that refers to nothing."""
    return Context((), request.input, {}, [])


async def read_context(
    request: History,
    caller: Caller,
    stores: Stores,
    background: Background,
    settings: Settings,
    recent: Recent | None = None,
) -> Context:
    """Returns what a request refers to. Raises ServingError for what is not there.

    A response is looked for among the `recent` ones of the connection, and then in the store.
    """
    earlier: Sequence[Mapping[str, Any]] = []
    stored: frozenset[str] = frozenset()
    if request.previous_response_id is not None:
        found: Sequence[Mapping[str, Any]] | None
        name = request.previous_response_id
        found = None if recent is None else recent.chain(name)
        if recent is not None and found is not None:
            stored = recent.stored(name)
        if found is None or await _is_deleted(stored, caller, stores):
            found = await _chain(name, caller, stores, background, settings)
            stored = frozenset({name})
        earlier = found
    elif request.conversation is not None:
        found = await stores.conversations.items(
            caller.tenant, request.conversation, settings.limits.body_bytes
        )
        if found is None:
            raise ServingError(
                ErrorKind.NOT_FOUND, "There is no such conversation here.", param="conversation"
            )
        earlier = found
    referenced = await read_references(request.input, caller, stores, "input")
    own = request.input
    if not isinstance(own, str):
        named = references(own).values()
        items = iter(_ITEMS.validate_python([referenced[name] for name in named]))
        own = [next(items) if isinstance(item, ItemReference) else item for item in own]
    return Context(_ITEMS.validate_python(earlier), own, referenced, earlier, stored)


async def _is_deleted(names: Collection[str], caller: Caller, stores: Stores) -> bool:
    """Returns whether one of these stored responses is gone; False where that cannot be known."""
    try:
        return bool(names) and not await stores.responses.has(caller.tenant, names)
    except ServingError:
        return False


async def _chain(
    name: str, caller: Caller, stores: Stores, background: Background, settings: Settings
) -> list[Json]:
    """Returns the items of a response and of all before it. Raises ServingError."""
    background.require_saved(caller, name)
    found = None
    if settings.store.enabled:
        found = await stores.responses.chain(caller.tenant, name, settings.limits.body_bytes)
    if found is None:
        raise ServingError(
            ErrorKind.PREVIOUS_RESPONSE,
            "There is no such response here, or one before it is gone.",
            param="previous_response_id",
        )
    return found


def references(items: str | Sequence[InputItem]) -> dict[int, str]:
    """Returns the places and the ids of the references among `items`."""
    if isinstance(items, str):
        return {}
    return {i: item.id for i, item in enumerate(items) if isinstance(item, ItemReference)}


async def read_references(
    items: str | Sequence[InputItem], caller: Caller, stores: Stores, field: str
) -> dict[str, Json]:
    """Returns the stored items that `items` refer to, by their ids.

    Raises ServingError (NOT_FOUND) that names the place in `field` of one that is not there.
    """
    named = references(items)
    found = await stores.responses.items(caller.tenant, [*named.values()]) if named else {}
    for index, name in named.items():
        if name not in found:
            raise ServingError(
                ErrorKind.NOT_FOUND, "There is no such item here.", param=f"{field}[{index}].id"
            )
    return found


def given_items(
    items: str | Sequence[InputItem], referenced: dict[str, Json], make_id: Callable[[], str]
) -> list[Json]:
    """Returns a client's items as they are stored, each with an id."""
    if isinstance(items, str):
        return [_given(MessageItem(role="user", content=items), make_id)]
    return [
        referenced[item.id] if isinstance(item, ItemReference) else _given(item, make_id)
        for item in items
    ]


async def keeping(
    events: Events,
    output: Output,
    response: ResponseObject,
    save: Save,
    now: Callable[[], float],
    release: Callable[[], None],
) -> Events:
    """Yields `events`, and saves the response before its end is told.

    One that failed, whatever the reason, is saved where its id has been told: after the first
    events. One whose client has left is not. What cannot be saved is told all the same, and says
    so. In the end `release` is called.
    """

    async def keep(body: Body) -> None:
        try:
            response.stored = await save(body)
        except ServingError:
            response.leave_out()

    told = False
    try:
        async for batch in events:
            yield batch
            told = True
    except Exception as error:
        if told:
            await keep(response.failed(output, public_error(error)))
        raise
    else:
        await keep(response.ended(output, now()))
    finally:
        release()
        await events.aclose()


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
    if isinstance(item, CodeInterpreterCallItem):
        return {**item.model_dump(), "id": f"ci_{make_id()}"}
    if isinstance(item, WebSearchCallItem):
        return {**item.model_dump(), "id": f"ws_{make_id()}"}
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
    if isinstance(item, CompactionItem):
        return {"id": f"cmp_{make_id()}", **item.model_dump()}
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
