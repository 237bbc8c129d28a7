"""`/v1/conversations/{id}/items` and one of them."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.protocols.conversations.endpoint import (
    ROUTE,
    conversation_object,
    missing_conversation,
    require_store,
)
from serving.protocols.conversations.schema import CreateItems
from serving.protocols.edge.answers import Json
from serving.protocols.edge.body import decode, require_json
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.generation import Services
from serving.protocols.edge.limits import read_body
from serving.protocols.edge.query import query_of, read_paging
from serving.protocols.edge.replies import reply_json
from serving.protocols.responses.context import read_references
from serving.protocols.responses.listing import (
    given_items,
    listed,
    read_includes,
    with_included,
)


class Items:
    """`GET` lists a conversation's items, `POST` puts more at its end."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        require_store(self._services.settings)
        name, query = scope["path_params"]["id"], query_of(scope)
        includes = read_includes(query)
        if scope["method"] == "POST":
            require_json(scope)
            added = await self._add(caller, name, await read_body(receive))
            await reply_json(send, listed(added, includes, has_more=False))
            return
        paging = read_paging(query)
        page = await self._services.stores.conversations.page(
            caller.tenant, name, **paging._asdict()
        )
        if page is None:
            raise missing_conversation()
        await reply_json(send, listed(page.items, includes, has_more=page.has_more))

    async def _add(self, caller: Caller, name: str, body: bytes) -> list[Json]:
        """Returns the items of a body, which are in the conversation now."""
        services, stores = self._services, self._services.stores
        request = await services.reading.run_sized(
            len(body), decode, body, CreateItems, services.settings.limits
        )
        services.count_unknown(len(request.model_extra or ()))
        referenced = await read_references(request.items, caller, stores, "items")
        items = given_items(request.items, referenced, services.make_id)
        most = services.settings.limits.body_bytes
        if not await stores.conversations.add(caller.tenant, name, items, most):
            raise missing_conversation()
        return items


class OneItem:
    """`GET` gives an item, `DELETE` takes it out of the conversation and gives that."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._conversations = services.stores.conversations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        require_store(self._services.settings)
        name, item_id = scope["path_params"]["id"], scope["path_params"]["item"]
        if scope["method"] == "DELETE":
            left = await self._conversations.remove(caller.tenant, name, item_id)
            if left is None:
                raise _missing_item()
            await reply_json(send, conversation_object(left))
            return
        includes = read_includes(query_of(scope))
        item = await self._conversations.item(caller.tenant, name, item_id)
        if item is None:
            raise _missing_item()
        await reply_json(send, with_included(item, includes))


def _missing_item() -> ServingError:
    return ServingError(ErrorKind.NOT_FOUND, "There is no such item in such a conversation here.")
