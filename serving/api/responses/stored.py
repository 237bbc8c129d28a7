"""Stored responses: `/v1/responses/{id}`, its `input_items` and its `cancel`."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from serving.api.exchange import exchange_of
from serving.api.replies import reply, reply_json
from serving.api.responses.background import Background
from serving.api.responses.kept import TENANT
from serving.errors import ErrorKind, ServingError
from serving.store.responses import ResponseStore, Stored

ROUTE = "responses.stored"

ITEMS_MAX = 100
_ITEMS_DEFAULT = 20


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
        if QueryParams(scope["query_string"]).get("stream", "false") != "false":
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
        query = QueryParams(scope["query_string"])
        limit, order = _limit(query), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise _wrong("order", "must be 'asc' or 'desc'")
        items = (await _load(self._store, scope["path_params"]["id"])).input
        if order == "desc":
            items.reverse()
        start = 0
        if (after := query.get("after")) is not None:
            start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
            if not start:
                raise _wrong("after", "names no item of this response")
        page: list[dict[str, Any]] = items[start : start + limit]
        listed = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + limit < len(items),
        }
        await reply_json(send, listed)


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


def _limit(query: QueryParams) -> int:
    text = query.get("limit", str(_ITEMS_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= ITEMS_MAX):
        raise _wrong("limit", f"must be a number from 1 to {ITEMS_MAX}")
    return int(text)


def _wrong(param: str, what: str) -> ServingError:
    return ServingError(ErrorKind.INVALID_VALUE, f"'{param}' {what}.", param=param)
