"""The outermost layer: gives every request an id, and every failure the shape its client knows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.control.callers import Caller
from serving.control.drain import Drain
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.addressing import UNIX
from serving.protocols.edge.dialect import OPENAI, Dialect, dialect_of
from serving.protocols.edge.exchange import Exchange, attach, attach_turns
from serving.protocols.edge.replies import reply_error
from serving.telemetry.record import Record
from serving.telemetry.recorder import Recorder

QUIET_ROUTES = frozenset({"health", "metrics"})
"""Asked every few seconds by machines: not worth a line or a count each."""

# Printable, without what could break a log line or a header; the rest is replaced by our own id.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Edge:
    """ASGI middleware: `x-request-id` on every response, no exception past this point.

    A client's id is used when it is plain, else one is made. Every request's line is written here,
    when its response is over; a request that no one else has counted is counted here.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorder: Recorder,
        clock: Callable[[], float],
        make_id: Callable[[], str],
        identify: Callable[[Scope], Caller],
        drain: Drain,
    ) -> None:
        """`identify` returns whose a request is."""
        self._app = app
        self._recorder = recorder
        self._clock = clock
        self._make_id = make_id
        self._identify = identify
        self._drain = drain
        self._open: set[Exchange] = set()
        recorder.metrics.count_open(self._count_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dialect = dialect_of(scope["path"])
        exchange = self._exchange(self._request_id(scope), scope, scope["method"], dialect)
        attach(scope, exchange)
        self._open.add(exchange)
        value = exchange.request_id.encode()
        headers = [(name, value) for name in dialect.request_id_headers]

        async def counted_receive() -> Message:
            message = await receive()
            exchange.bytes_received += len(message.get("body", b""))
            return message

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.started = True
                exchange.status = message["status"]
                closing = [(b"connection", b"close")] if self._drain.draining else []
                message["headers"] = [*message.get("headers", ()), *headers, *closing]
            else:
                exchange.bytes_sent += len(message.get("body", b""))
            return send(message)

        try:
            try:
                await self._app(scope, counted_receive, send_with_id)
            except Exception as error:
                exchange.error = self._told(error, exchange)
            if exchange.error is not None and not exchange.started:
                await reply_error(send_with_id, exchange.error, exchange.describe(exchange.error))
        except asyncio.CancelledError:
            exchange.error = _left()
            raise
        finally:
            self._open.discard(exchange)
            if exchange.route not in QUIET_ROUTES:
                self._record(exchange)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one WebSocket: refuses it as a request is refused, or lets it have its turns."""
        exchange = self._exchange(self._request_id(scope), scope, "GET")
        attach(scope, exchange)
        attach_turns(scope, partial(self._turn, scope))
        request_id = (b"x-request-id", exchange.request_id.encode())

        async def counted_receive() -> Message:
            message = await receive()
            exchange.bytes_received += _message_bytes(message)
            return message

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "websocket.accept":
                exchange.started = exchange.recorded = True
                exchange.status = 101
                self._recorder.metrics.count_socket(1)
                message["headers"] = [*message.get("headers", ()), request_id]
            exchange.bytes_sent += _message_bytes(message)
            return send(message)

        def refuse(message: Message) -> Awaitable[None]:
            exchange.status = message.get("status", exchange.status)
            exchange.bytes_sent += len(message.get("body", b""))
            return send({**message, "type": f"websocket.{message['type']}"})

        try:
            await self._app(scope, counted_receive, send_with_id)
        except Exception as error:
            exchange.error = self._told(error, exchange)
            if exchange.started:
                return  # the server closes it
            if "websocket.http.response" in scope.get("extensions", {}):
                await reply_error(refuse, exchange.error, exchange.error.body, [request_id])
            else:
                await send({"type": "websocket.close", "code": 1008})
        finally:
            if exchange.started:
                self._recorder.metrics.count_socket(-1)
            self._record(exchange)

    @contextmanager
    def _turn(self, scope: Scope, route: str) -> Generator[Exchange]:
        """Yields the exchange of one request among many on the connection of `scope`."""
        exchange = self._exchange(self._make_id(), scope)
        exchange.route = route
        self._open.add(exchange)
        try:
            self._drain.require_open()
            with self._drain.work():
                yield exchange
        except Exception as error:
            exchange.error = self._told(error, exchange)
            raise exchange.error from None
        except asyncio.CancelledError:
            exchange.error = _left()
            raise
        finally:
            self._open.discard(exchange)
            self._record(exchange)

    def _count_open(self) -> int:
        return sum(exchange.route not in QUIET_ROUTES for exchange in self._open)

    def _told(self, error: Exception, exchange: Exchange) -> ServingError:
        """Returns what the client is told of a failure; an unforeseen one is in the log."""
        if isinstance(error, ServingError):
            return error
        self._recorder.logger.error("failure", request_id=exchange.request_id, exc_info=error)
        return ServingError(ErrorKind.INTERNAL, "The server failed to answer the request.")

    def _exchange(
        self,
        request_id: str,
        scope: Scope,
        method: str | None = None,
        dialect: Dialect = OPENAI,
    ) -> Exchange:
        client, _ = scope.get("client") or (UNIX, 0)
        return Exchange(
            request_id,
            self._clock(),
            self._recorder.gather(),
            caller=self._identify(scope),
            client=None if client == UNIX else client,
            method=method,
            dialect=dialect,
        )

    def _record(self, exchange: Exchange) -> None:
        error = exchange.error
        left = error is not None and error.kind is ErrorKind.CLIENT_CLOSED
        record = Record(
            id=exchange.request_id,
            client=exchange.client,
            method=exchange.method,
            route=exchange.route,
            status=exchange.status,
            bytes_received=exchange.bytes_received,
            bytes_sent=exchange.bytes_sent,
            tenant=exchange.caller.tenant,
            outcome="aborted" if left else "error" if error else "ok",
            code="" if error is None else error.kind.value.code,
            prompt_tokens=exchange.prompt_tokens,
            started=exchange.accepted,
            ended=self._clock(),
        )
        self._recorder.end(exchange.gathering, record, counted=exchange.recorded)

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._make_id()


def _left() -> ServingError:
    return ServingError(ErrorKind.CLIENT_CLOSED, "The client left.")


def _message_bytes(message: Message) -> int:
    """Returns the size of a WebSocket's message in UTF-8; what is no message has none."""
    text: str | None = message.get("text")
    return len(message.get("bytes") or b"") if text is None else len(text.encode())
