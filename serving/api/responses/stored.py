"""Stored responses: `/v1/responses/{id}`, its `input_items` and its `cancel`."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from serving.api.exchange import exchange_of
from serving.api.replies import reply, reply_json
from serving.api.responses.background import Background
from serving.api.responses.kept import TENANT
from serving.api.responses.query import (
    listed,
    query_of,
    read_flag,
    read_includes,
    read_paging,
)
from serving.errors import ErrorKind, ServingError
from serving.store.responses import ResponseStore, Stored

ROUTE = "responses.stored"


class StoredResponse:
    """`GET` gives a response as it is; `DELETE` ends it and takes it out of the store."""

    def __init__(self, store: ResponseStore, background: Background) -> None:
        self._store = store
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        exchange_of(scope, ROUTE)
        response_id = scope["path_params"]["id"]
        if scope["method"] == "DELETE":
            await self._background.cancel(response_id)
            if not await self._store.delete(TENANT, response_id):
                raise _missing()
            await reply_json(send, {"id": response_id, "object": "response", "deleted": True})
            return
        if read_flag(query_of(scope), "stream"):
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                "'stream' is not supported here: read the response as it is.",
                param="stream",
            )
        if (running := self._background.body(response_id)) is not None:
            await reply_json(send, running)
            return
        stored = await _load(self._store, response_id)
        await reply(send, 200, stored.body, b"application/json")


class InputItems:
    """Lists the items of a response's own input, without those of the responses before it."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        exchange_of(scope, ROUTE)
        query = query_of(scope)
        paging, includes = read_paging(query), read_includes(query)
        items = (await _load(self._store, scope["path_params"]["id"])).input
        if paging.newest_first:
            items.reverse()
        start = 0
        if paging.after is not None:
            start = next((i + 1 for i, item in enumerate(items) if item["id"] == paging.after), 0)
            if not start:
                raise ServingError(
                    ErrorKind.INVALID_VALUE,
                    "'after' names no item of this response.",
                    param="after",
                )
        end = start + paging.limit
        await reply_json(send, listed(items[start:end], includes, has_more=end < len(items)))


class CancelledResponse:
    """Ends a response in the background, and gives it as it is then.

    One that has ended before stays as it is. One that is not in the background is refused.
    """

    def __init__(self, store: ResponseStore, background: Background) -> None:
        self._store = store
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        exchange_of(scope, ROUTE)
        response_id = scope["path_params"]["id"]
        await self._background.cancel(response_id)
        stored = await _load(self._store, response_id)
        if not msgspec.json.decode(stored.body)["background"]:
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                "Only a response in the background can be cancelled. To cancel another that runs, "
                "close its connection.",
            )
        await reply(send, 200, stored.body, b"application/json")


async def _load(store: ResponseStore, response_id: str) -> Stored:
    stored = await store.load(TENANT, response_id)
    if stored is None:
        raise _missing()
    return stored


def _missing() -> ServingError:
    return ServingError(ErrorKind.NOT_FOUND, "There is no such response here.")
