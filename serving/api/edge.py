"""The outermost layer: gives every request an id, and every failure the shape its client knows."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.dialect import dialect_of
from serving.api.exchange import Exchange, attach
from serving.api.replies import reply_error
from serving.errors import ErrorKind, ServingError
from serving.telemetry.record import Record
from serving.telemetry.recorder import Recorder

QUIET_ROUTES = frozenset({"health", "metrics"})
"""Asked every few seconds by machines: not worth a line or a count each."""

# Printable, without what could break a log line or a header; the rest is replaced by our own id.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Edge:
    """ASGI middleware: `x-request-id` on every response, no exception past this point.

    A client's id is used when it is plain, else one is made. A request that no one else has
    recorded is recorded here, so that each has exactly one line and one count.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorder: Recorder,
        clock: Callable[[], float],
        make_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._recorder = recorder
        self._clock = clock
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dialect = dialect_of(scope["path"])
        exchange = Exchange(self._request_id(scope), self._clock(), dialect)
        attach(scope, exchange)
        value = exchange.request_id.encode()
        headers = [(name, value) for name in dialect.request_id_headers]

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.started = True
                message["headers"] = [*message.get("headers", ()), *headers]
            return send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ServingError as error:
            exchange.error = error
        except Exception:
            self._recorder.logger.exception("failure", request_id=exchange.request_id)
            exchange.error = ServingError(
                ErrorKind.INTERNAL, "The server failed to answer the request."
            )
        if exchange.error is not None and not exchange.started:
            await reply_error(send_with_id, exchange.error, exchange.describe(exchange.error))
        if not exchange.recorded and exchange.route not in QUIET_ROUTES:
            self._record(exchange)

    def _record(self, exchange: Exchange) -> None:
        error = exchange.error
        left = error is not None and error.kind is ErrorKind.CLIENT_CLOSED
        self._recorder.record(
            Record(
                id=exchange.request_id,
                route=exchange.route,
                outcome="aborted" if left else "error" if error else "ok",
                code="" if error is None else error.kind.value.code,
                started=exchange.accepted,
                ended=self._clock(),
            )
        )

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value, "ascii")
        return self._make_id()
