"""What a Responses request refers to: earlier responses, a conversation, stored items."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.answers import Json
from serving.protocols.edge.generation import Services
from serving.protocols.responses.background import Background
from serving.protocols.responses.items import InputItem, ItemReference
from serving.protocols.responses.schema import History
from serving.settings import Settings
from serving.store.recent import Recent
from serving.store.stores import Stores

_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


@dataclass(frozen=True, slots=True)
class Context:
    """The items of the conversation so far, and those of the request."""

    own: Sequence[InputItem]
    """Without references: each has been replaced by its item."""
    earlier: Sequence[InputItem] = ()
    history: Sequence[Mapping[str, Any]] = ()
    """`earlier`, as it is stored."""
    referenced: Mapping[str, Json] = field(default_factory=dict)
    """Stored items by their ids."""
    stored: frozenset[str] = frozenset()
    """The ids of the stored responses in `earlier`, as far as the connection knows them."""


def require_store(request: History, settings: Settings, recent: Recent | None = None) -> None:
    """Raises ServingError that names the field of `request` which needs a store, without one.

    A connection with `recent` responses needs none to continue them.
    """
    if settings.store.enabled:
        return
    for name in ("background", "conversation", "previous_response_id"):
        if name == "previous_response_id" and recent is not None:
            continue
        if getattr(request, name, None):
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{name}' needs the store of responses, which is off.",
                param=name,
            )


def needs_store(request: History) -> bool:
    """Returns whether a request refers to what is stored."""
    history = request.previous_response_id is not None or request.conversation is not None
    return history or bool(_references(request.items))


async def read_context(
    request: History,
    caller: Caller,
    services: Services,
    background: Background,
    recent: Recent | None = None,
) -> Context:
    """Returns what a request refers to. Raises ServingError for what is not there.

    A response is looked for among the `recent` ones of the connection, and then in the store.
    """
    stores, settings = services.stores, services.settings
    history: Sequence[Mapping[str, Any]] = ()
    stored: frozenset[str] = frozenset()
    if (name := request.previous_response_id) is not None:
        known: Sequence[Mapping[str, Any]] | None
        known = None if recent is None else recent.chain(name)
        if recent is not None and known is not None:
            stored = recent.stored(name)
        if known is None or await _is_deleted(stored, caller, stores):
            background.require_saved(caller, name)
            known = await _chain(name, caller, stores, settings)
            stored = frozenset({name})
        history = known
    elif request.conversation is not None:
        found = await stores.conversations.items(
            caller.tenant, request.conversation, settings.limits.body_bytes
        )
        if found is None:
            raise ServingError(
                ErrorKind.NOT_FOUND, "There is no such conversation here.", param="conversation"
            )
        history = found
    referenced = await read_references(request.items, caller, stores, "input")
    items = {name: _ITEMS.validate_python([item])[0] for name, item in referenced.items()}
    own = [items[i.id] if isinstance(i, ItemReference) else i for i in request.items]
    return Context(own, _ITEMS.validate_python(history), history, referenced, stored)


async def _is_deleted(names: Collection[str], caller: Caller, stores: Stores) -> bool:
    """Returns whether one of these stored responses is gone; False where that cannot be known."""
    try:
        return bool(names) and not await stores.responses.has(caller.tenant, names)
    except ServingError:
        return False


async def _chain(name: str, caller: Caller, stores: Stores, settings: Settings) -> list[Json]:
    """Returns the items of a response and of all before it. Raises ServingError."""
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


def _references(items: Sequence[InputItem]) -> dict[int, str]:
    """Returns the places and the ids of the references among `items`."""
    return {i: item.id for i, item in enumerate(items) if isinstance(item, ItemReference)}


async def read_references(
    items: Sequence[InputItem], caller: Caller, stores: Stores, field: str
) -> dict[str, Json]:
    """Returns the stored items that `items` refer to, by their ids.

    Raises ServingError (NOT_FOUND) that names the place in `field` of one that is not there.
    """
    named = _references(items)
    found = await stores.responses.items(caller.tenant, [*named.values()]) if named else {}
    for index, name in named.items():
        if name not in found:
            raise ServingError(
                ErrorKind.NOT_FOUND, "There is no such item here.", param=f"{field}[{index}].id"
            )
    return found
