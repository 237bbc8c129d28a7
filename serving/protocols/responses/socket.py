"""The WebSocket mode of `/v1/responses`: many requests on one connection.

A client sends `response.create` with the fields of `POST /v1/responses` and gets the events of the
stream, each as a message. Requests of one `stream_id`, or of none, are answered one after the
other; those of different ones side by side. What a request is, how it is answered and what is kept
of it is the same as over HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from serving.control.drain import draining
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.event_log import split_events
from serving.protocols.edge.exchange import Exchange, Turns, exchange_of, turns_of
from serving.protocols.edge.generation import (
    Pending,
    Prepared,
    RequestInfo,
    Surroundings,
    prepare_within,
    write_stream,
)
from serving.protocols.edge.presenters import Streamed
from serving.protocols.edge.timeout import requested_seconds
from serving.protocols.responses.socket_messages import (
    Asked,
    Json,
    error_event,
    not_steered,
    read_message,
)
from serving.store.recent import Recent

ROUTE = "responses.socket"
TURN_ROUTE = "responses"

_CLOSED_NORMALLY, _CLOSED_FOR_POLICY, _CLOSED_FOR_RESTART = 1000, 1008, 1012

PrepareTurn = Callable[[Json, RequestInfo, Recent], Prepared | Pending]
"""Takes the fields of a request and the responses of the connection. Raises ServingError."""


class ResponsesSocket:
    """An ASGI application: one WebSocket from its handshake to its end."""

    def __init__(self, around: Surroundings, prepare: PrepareTurn) -> None:
        self._around = around
        self._prepare = prepare
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection. Raises ServingError for a handshake that is refused."""
        exchange_of(scope, ROUTE)
        seconds = requested_seconds(scope)
        most = self._around.settings.limits.sockets
        if self._open >= most:
            raise ServingError(ErrorKind.OVERLOADED, f"{most} WebSockets are open.")
        self._open += 1
        try:
            await receive()  # the client's wish to connect
            await send({"type": "websocket.accept"})
            session = _Session(self._around, self._prepare, turns_of(scope), send, seconds)
            await session.run(receive)
        finally:
            self._open -= 1


class _Session:
    """One open connection. Whatever its client asked for ends with it."""

    def __init__(
        self,
        around: Surroundings,
        prepare: PrepareTurn,
        turns: Turns,
        send: Send,
        seconds: float | None,
    ) -> None:
        self._around = around
        self._prepare = prepare
        self._turns = turns
        self._send = send
        self._seconds = seconds
        self._recent = Recent(around.settings.limits.body_bytes)
        self._lanes: dict[str | None, deque[Asked]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._waiting_bytes = 0
        self._farewell: tuple[ServingError, int] | None = None
        self._over = asyncio.Event()

    async def run(self, receive: Receive) -> None:
        """Serves until the client leaves or is too slow, the connection is too old, or the service
        leaves."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(
            self._around.settings.deadlines.socket_seconds,
            lambda: self._retire(self._too_old(), _CLOSED_NORMALLY),
        )
        self._spawn(self._leave_with_service())
        listening = loop.create_task(self._listen(receive))
        over = loop.create_task(self._over.wait())
        try:
            done, _ = await asyncio.wait({listening, over}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            expiry.cancel()
            self._over.set()
            tasks = {listening, over, *self._tasks}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _listen(self, receive: Receive) -> None:
        """Takes messages until the client leaves."""
        while (message := await receive())["type"] != "websocket.disconnect":
            limits = self._around.settings.limits
            if self._requests >= limits.socket_requests or self._waiting_bytes > limits.body_bytes:
                # Not to read on would keep us from seeing the client leave.
                await self._close(_CLOSED_FOR_POLICY, "too much waits on this connection")
                return
            self._take(message)

    def _take(self, message: Message) -> None:
        """Puts a message into its lane."""
        asked = read_message(message, self._around.settings.limits)
        stream_id = asked.stream_id
        self._waiting_bytes += asked.size_bytes
        self._requests += 1
        if stream_id in self._lanes:
            self._lanes[stream_id].append(asked)
            return
        self._lanes[stream_id] = deque([asked])
        self._spawn(self._work(stream_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, stream_id: str | None) -> None:
        """Answers the messages of one lane, one after the other."""
        lane = self._lanes[stream_id]
        try:
            while lane:
                asked = lane.popleft()
                await self._answer(asked)
                self._requests -= 1
                self._waiting_bytes -= asked.size_bytes
        except OSError:
            return  # nobody is there any more
        finally:
            del self._lanes[stream_id]
        if self._farewell is not None and not self._lanes:
            await self._part(*self._farewell)

    async def _answer(self, asked: Asked) -> None:
        """Answers one message. Raises OSError when the client cannot be told."""
        if asked.steers:
            await self._tell(not_steered(asked.fields), None)
            return
        try:
            with self._turns(TURN_ROUTE) as exchange:
                exchange.bytes_received = asked.size_bytes
                if self._farewell is not None:
                    raise self._farewell[0]
                prepared = await self._prepared(asked, exchange)
                await self._stream(prepared, exchange, asked.stream_id)
        except ServingError as error:
            await self._tell(error_event(error), asked.stream_id)

    async def _prepared(self, asked: Asked, exchange: Exchange) -> Prepared:
        """Returns a request that can be answered. Raises ServingError."""
        around = self._around
        if (known := around.known()) is not None:
            known.pipeline.admission.require_room()
        info = RequestInfo(exchange.request_id, exchange.caller, self._seconds)
        arguments = (asked.request(), info, self._recent)
        return await prepare_within(
            info, exchange, around, asked.size_bytes, lambda: self._prepare(*arguments)
        )

    async def _stream(self, prepared: Prepared, exchange: Exchange, stream_id: str | None) -> None:
        """Sends the events of a response. Raises ServingError, for a client that is gone too."""
        if not isinstance(prepared.presenter, Streamed):
            raise TypeError("every response of a WebSocket is streamed")

        async def write(body: bytes, more: bool) -> None:
            exchange.bytes_sent += len(body)
            for event in split_events(body):
                await self._tell(event.partition(b"\ndata: ")[2].rstrip(), stream_id)

        events = prepared.run(exchange.accepted)
        exchange.recorded = True
        try:
            await write_stream(write, events, prepared.presenter)
        except OSError:
            raise ServingError(ErrorKind.CLIENT_CLOSED, "The client is gone.") from None
        finally:
            await events.aclose()

    async def _tell(self, data: bytes, stream_id: str | None) -> None:
        """Sends one event. Raises OSError for a client that is gone or takes nothing."""
        if stream_id is not None:
            data = b'{"stream_id":' + msgspec.json.encode(stream_id) + b"," + data[1:]
        await self._try_to_send({"type": "websocket.send", "text": data.decode()})

    async def _try_to_send(self, message: Message) -> None:
        if self._over.is_set():
            raise ConnectionError("the connection is over")
        try:
            async with asyncio.timeout(self._around.settings.deadlines.slow_client_seconds):
                await self._send(message)
        except OSError:
            self._over.set()
            raise

    async def _leave_with_service(self) -> None:
        await self._around.drain.refusing.wait()
        self._retire(draining(), _CLOSED_FOR_RESTART)

    def _retire(self, reason: ServingError, code: int) -> None:
        """Lets what runs come to its end, and nothing begin behind it."""
        if self._farewell is None:
            self._farewell = reason, code
            if not self._lanes:
                self._spawn(self._part(reason, code))

    async def _part(self, reason: ServingError, code: int) -> None:
        with suppress(OSError):
            await self._tell(error_event(reason), None)
            await self._close(code, "")

    async def _close(self, code: int, reason: str) -> None:
        with suppress(OSError):
            await self._try_to_send({"type": "websocket.close", "code": code, "reason": reason})
        self._over.set()

    def _too_old(self) -> ServingError:
        seconds = self._around.settings.deadlines.socket_seconds
        return ServingError(
            ErrorKind.WEBSOCKET_LIMIT,
            f"A connection lives {seconds:g} seconds. Open another to go on.",
        )
