"""Stored responses: `/v1/responses/{id}`, its `input_items` and its `cancel`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.generation.pipeline import Events
from serving.protocols.edge.answers import Json
from serving.protocols.edge.connection import ClientConnection
from serving.protocols.edge.event_log import EventLog, LogReader
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.generation import Services, present
from serving.protocols.edge.query import query_of, read_flag, read_number, read_paging
from serving.protocols.edge.replies import reply, reply_json
from serving.protocols.responses.background import Background
from serving.protocols.responses.listing import listed, read_includes, with_included
from serving.store.responses import ResponseStore, Stored

ROUTE = "responses.stored"
_LOOK_SECONDS = 0.25
"""Between two looks at a response that another process makes."""
_LOOKS = 40


class StoredResponse:
    """`GET` gives a response as it is, or its stream; `DELETE` ends it and takes it away."""

    def __init__(self, services: Services, background: Background) -> None:
        self._services = services
        self._store = services.stores.responses
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        response_id = scope["path_params"]["id"]
        if scope["method"] == "DELETE":
            await self._background.cancel(caller, response_id)
            if not await self._store.delete(caller.tenant, response_id):
                raise _missing()
            self._background.forget(caller, response_id)
            await reply_json(send, {"id": response_id, "object": "response", "deleted": True})
            return
        query = query_of(scope)
        includes = read_includes(query)
        after = read_number(query, "starting_after")
        if read_flag(query, "stream"):
            start = 0 if after is None else after + 1
            reader, ticks = await self._stream(caller, response_id, start)
            slow_client_seconds = self._services.settings.deadlines.slow_client_seconds
            async with ClientConnection(
                receive, send, self._services.clock, slow_client_seconds
            ) as connection:
                await present(connection, ticks, reader)
            return
        if after is not None:
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                "'starting_after' goes with 'stream=true'.",
                param="starting_after",
            )
        running = self._background.find(caller, response_id)
        body: Mapping[str, Any]
        if running is not None:
            body = running.body
        else:
            stored = await _load(self._store, caller, response_id)
            body = msgspec.json.decode(stored.body, type=Json)
        output = [with_included(item, includes) for item in body["output"]]
        await reply_json(send, {**body, "output": output})

    async def _stream(
        self, caller: Caller, response_id: str, start: int
    ) -> tuple[LogReader, Events]:
        """Returns the events of a response from the one with the number `start` on.

        Raises ServingError for a response that was not begun as a stream in the background.
        """
        running = self._background.find(caller, response_id)
        if running is not None and running.streamed:
            return LogReader(running.log, start), running.log.ticks()
        stored = await _load(self._store, caller, response_id)
        if stored.events is None:
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                "'stream' needs a response that was made with 'background' and 'stream': read "
                "this one as it is.",
                param="stream",
            )
        log = EventLog()
        reader = LogReader(log, start)

        async def recorded(stored: Stored) -> Events:
            """Yields nothing at once, and again when the log is whole.

            The events of a response that another process makes are there when it has ended.
            """
            yield []
            while stored.running:
                await asyncio.sleep(_LOOK_SECONDS)
                stored = await _load(self._store, caller, response_id)
            if stored.events:
                log.add(stored.events)
            else:  # its process ended before it: what it told is not known, its failure is
                log.add(_failure(stored.body, start))
                reader.rewind()
            log.end()
            yield []

        return reader, recorded(stored)


class InputItems:
    """Lists the items of a response's own input, without those of the responses before it."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        query = query_of(scope)
        paging, includes = read_paging(query), read_includes(query)
        items = (await _load(self._store, caller, scope["path_params"]["id"])).input
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
        caller = exchange_of(scope, ROUTE).caller
        response_id = scope["path_params"]["id"]
        ended = await self._background.cancel(caller, response_id)
        if ended is not None:
            await reply_json(send, ended)
            return
        stored = await _load(self._store, caller, response_id)
        if stored.running:
            stored = await self._cancel_elsewhere(caller, response_id)
        if not msgspec.json.decode(stored.body)["background"]:
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                "Only a response in the background can be cancelled. To cancel another that runs, "
                "close its connection.",
            )
        await reply(send, 200, stored.body, b"application/json")

    async def _cancel_elsewhere(self, caller: Caller, response_id: str) -> Stored:
        """Returns a response that another process was making, as a rule at its end."""
        await self._store.call_off(caller.tenant, response_id)
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_SECONDS)
            stored = await _load(self._store, caller, response_id)
            if not stored.running:
                break
        return stored


async def _load(store: ResponseStore, caller: Caller, response_id: str) -> Stored:
    stored = await store.load(caller.tenant, response_id)
    if stored is None:
        raise _missing()
    return stored


def _missing() -> ServingError:
    return ServingError(ErrorKind.NOT_FOUND, "There is no such response here.")


def _failure(body: bytes, number: int) -> bytes:
    """Returns the event that tells of a stored response which has failed."""
    data = b'{"type":"response.failed","sequence_number":%d,"response":%b}' % (number, body)
    return b"event: response.failed\ndata: " + data + b"\n\n"
