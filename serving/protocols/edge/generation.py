"""What every endpoint that generates does between its request and its response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from serving.control.callers import Caller
from serving.control.drain import Drain
from serving.control.workers import Workers
from serving.errors import ErrorKind, ServingError
from serving.fleet.table import Fleet
from serving.generation.backend import Backend
from serving.generation.pipeline import Events
from serving.generation.watch import within
from serving.protocols.edge.body import require_json
from serving.protocols.edge.connection import ClientConnection
from serving.protocols.edge.exchange import Exchange, exchange_of
from serving.protocols.edge.limits import read_body
from serving.protocols.edge.presenters import Streamed, Whole
from serving.protocols.edge.replies import reply_json
from serving.protocols.edge.timeout import requested_seconds
from serving.settings import Settings
from serving.store.stores import Stores
from serving.tools.executors import Toolbox

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


Write = Callable[[bytes, bool], Awaitable[None]]
"""Sends a piece of a stream, and whether there is more to come."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request: how its events come about, and who presents them."""

    run: Callable[[float], Events]
    """Takes when the request was accepted, by the service's clock."""
    presenter: Whole | Streamed
    unknown_fields: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A checked request whose job needs something that must be waited for."""

    finish: Callable[[], Awaitable[Prepared]]
    """Raises ServingError."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What is known of a request beside its body: `deadline_seconds` as the client asks for it."""

    id: str
    caller: Caller
    deadline_seconds: float | None


Prepare = Callable[[bytes, RequestInfo], Prepared | Pending]
"""Takes the body. Raises ServingError. A large body is prepared in a thread."""


@dataclass(frozen=True, slots=True)
class Services:
    """What an endpoint needs of the service.

    `known` returns the engine, or None before its directory has been read. `now` is the time of day
    in seconds since 1970, `make_id` returns a new random id each time. What costs time in Python is
    done by the workers of its kind: `reading` prepares what is to be generated, `counting` counts
    tokens, `embedding` reads and writes embeddings.
    """

    settings: Settings
    fleet: Fleet
    known: Callable[[], Backend | None]
    clock: Callable[[], float]
    now: Callable[[], float]
    make_id: Callable[[], str]
    count_unknown: Callable[[int], None]
    toolbox: Toolbox
    stores: Stores
    drain: Drain
    reading: Workers
    counting: Workers
    embedding: Workers

    def left_seconds(self, accepted: float, requested_seconds: float | None) -> float:
        """Returns how long a request may still take that was accepted at `accepted`."""
        most = self.settings.deadlines.total_seconds
        return accepted + min(most, requested_seconds or most) - self.clock()


class Generation:
    """An endpoint that generates, an ASGI application. `route` is its metric label."""

    def __init__(self, route: str, services: Services, prepare: Prepare) -> None:
        self._route = route
        self._services = services
        self._prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError for one that fails before its response."""
        services = self._services
        exchange = exchange_of(scope, self._route)
        require_json(scope)
        if (known := services.known()) is not None:
            known.pipeline.admission.require_room()
        body = await read_body(receive)
        slow_client_seconds = services.settings.deadlines.slow_client_seconds
        async with ClientConnection(
            receive, send, services.clock, slow_client_seconds
        ) as connection:
            info = RequestInfo(exchange.request_id, exchange.caller, requested_seconds(scope))
            prepared = await prepare_within(
                info, exchange, services, len(body), lambda: self._prepare(body, info)
            )
            events = prepared.run(exchange.accepted)
            exchange.recorded = True
            try:
                await present(connection, events, prepared.presenter)
            finally:
                await events.aclose()


async def prepare_within(
    info: RequestInfo,
    exchange: Exchange,
    services: Services,
    size_bytes: int,
    prepare: Callable[[], Prepared | Pending],
) -> Prepared:
    """Returns what `prepare` makes of a request of `size_bytes`, in the time that the request has.

    Raises ServingError, also DEADLINE.
    """
    async with within(services.left_seconds(exchange.accepted, info.deadline_seconds)):
        prepared = await services.reading.run_sized(size_bytes, prepare)
        if isinstance(prepared, Pending):
            prepared = await prepared.finish()
    services.count_unknown(prepared.unknown_fields)
    return prepared


async def present(
    connection: ClientConnection, events: Events, presenter: Whole | Streamed
) -> None:
    """Sends the response that `presenter` makes of `events`."""
    if isinstance(presenter, Streamed):
        await _send_stream(connection, events, presenter)
    else:
        await _send_whole(connection, events, presenter)


async def _send_whole(connection: ClientConnection, events: Events, presenter: Whole) -> None:
    async for batch in events:
        presenter.add(batch)
    await reply_json(connection.send, presenter.body())


async def _send_stream(connection: ClientConnection, events: Events, presenter: Streamed) -> None:
    """Sends the events as they come; the response begins with the first of them."""
    send = connection.send
    begun = False

    async def write(body: bytes, more: bool) -> None:
        nonlocal begun
        if not begun:
            begun = True
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": more})

    await write_stream(write, events, presenter)


async def write_stream(write: Write, events: Events, presenter: Streamed) -> None:
    """Writes the events as they come.

    A failure before the first is raised; one after it becomes the stream's last event, and is
    raised only where it was not foreseen.
    """
    first = await anext(events)
    await write(presenter.begin() + presenter.encode(first), True)
    try:
        async for batch in events:
            await write(presenter.encode(batch), True)
        last = presenter.end()
    except ServingError as error:
        last = presenter.fail(error)
    except Exception:
        last = presenter.fail(ServingError(ErrorKind.INTERNAL, "The server failed to go on."))
        await write(last, False)
        raise
    await write(last, False)
