"""The WebSocket mode of `/v1/responses`: many requests on one connection.

A client sends `response.create` with the fields of `POST /v1/responses` and gets the events of the
stream, each as a message. Requests of one `stream_id`, or of none, are answered one after the
other; those of different ones side by side. What a request is, how it is answered and what is kept
of it is the same as over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import Message, Receive, Scope, Send

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.event_log import split_events
from serving.protocols.edge.exchange import Exchange, Turns, exchange_of, turns_of
from serving.protocols.edge.generation import (
    Pending,
    Prepared,
    RequestInfo,
    Services,
    prepare_within,
    write_stream,
)
from serving.protocols.edge.presenters import Streamed
from serving.protocols.edge.session import Session
from serving.protocols.edge.timeout import requested_seconds
from serving.protocols.responses.socket_messages import (
    Json,
    SocketMessage,
    error_event,
    not_steered,
    read_message,
)
from serving.store.recent import Recent

ROUTE = "responses.socket"
TURN_ROUTE = "responses"

PrepareTurn = Callable[[Json, RequestInfo, Recent], Prepared | Pending]
"""Takes the fields of a request and the responses of the connection. Raises ServingError."""


class ResponsesSocket:
    """An ASGI application: one WebSocket from its handshake to its end."""

    def __init__(self, services: Services, prepare: PrepareTurn) -> None:
        self._services = services
        self._prepare = prepare
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection. Raises ServingError for a handshake that is refused."""
        exchange_of(scope, ROUTE)
        seconds = requested_seconds(scope)
        most = self._services.settings.limits.sockets
        if self._open >= most:
            raise ServingError(ErrorKind.OVERLOADED, f"{most} WebSockets are open.")
        self._open += 1
        try:
            await receive()  # the client's wish to connect
            await send({"type": "websocket.accept"})
            session = _Session(self._services, self._prepare, turns_of(scope), send, seconds)
            await session.run(receive)
        finally:
            self._open -= 1


class _Session(Session[SocketMessage]):
    """One open connection, with the responses that can be continued on it."""

    def __init__(
        self,
        services: Services,
        prepare: PrepareTurn,
        turns: Turns,
        send: Send,
        seconds: float | None,
    ) -> None:
        super().__init__(services, send)
        self._prepare = prepare
        self._turns = turns
        self._seconds = seconds
        self._recent = Recent(services.settings.limits.body_bytes)

    def read(self, message: Message) -> SocketMessage:
        """Returns what a message asks for, or what is wrong with it."""
        return read_message(message, self._services.settings.limits)

    def describe(self, error: ServingError) -> bytes:
        """Returns the message that tells of an error."""
        return error_event(error)

    async def answer(self, asked: SocketMessage) -> None:
        """Answers one message. Raises OSError when the client cannot be told."""
        if asked.steers:
            await self.tell(not_steered(asked.fields))
            return
        try:
            with self._turns(TURN_ROUTE) as exchange:
                exchange.bytes_received = asked.size_bytes
                self.require_open()
                prepared = await self._prepared(asked, exchange)
                await self._stream(prepared, exchange, asked.stream_id)
        except ServingError as error:
            await self._tell_stream(error_event(error), asked.stream_id)

    async def _prepared(self, asked: SocketMessage, exchange: Exchange) -> Prepared:
        """Returns a request that can be answered. Raises ServingError."""
        services = self._services
        if (known := services.known()) is not None:
            known.pipeline.admission.require_room()
        info = RequestInfo(exchange.request_id, exchange.caller, self._seconds)
        arguments = (asked.request(), info, self._recent)
        return await prepare_within(
            info, exchange, services, asked.size_bytes, lambda: self._prepare(*arguments)
        )

    async def _stream(self, prepared: Prepared, exchange: Exchange, stream_id: str | None) -> None:
        """Sends the events of a response. Raises ServingError, for a client that is gone too."""
        if not isinstance(prepared.presenter, Streamed):
            raise TypeError("every response of a WebSocket is streamed")

        async def write(body: bytes, more: bool) -> None:
            exchange.bytes_sent += len(body)
            for event in split_events(body):
                await self._tell_stream(event.partition(b"\ndata: ")[2].rstrip(), stream_id)

        events = prepared.run(exchange.accepted)
        exchange.recorded = True
        try:
            await write_stream(write, events, prepared.presenter)
        except OSError:
            raise ServingError(ErrorKind.CLIENT_CLOSED, "The client is gone.") from None
        finally:
            await events.aclose()

    async def _tell_stream(self, data: bytes, stream_id: str | None) -> None:
        """Sends one event of a stream. Raises OSError as `tell` does."""
        if stream_id is not None:
            data = b'{"stream_id":' + msgspec.json.encode(stream_id) + b"," + data[1:]
        await self.tell(data)
