"""Health and metrics: what orchestrators and collectors ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NotRequired, Protocol

from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from serving.control.drain import Drain
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.replies import reply, reply_json
from serving.store.database import State as StoreState
from serving.telemetry.metrics import CONTENT_TYPE

PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Answered whatever else is refused."""


class State(Protocol):
    """The state that the probes tell."""

    @property
    def alive(self) -> bool:
        """False: only a restart of the whole service can help."""
        ...

    @property
    def ready(self) -> bool:
        """True: requests are answered now."""
        ...

    @property
    def state(self) -> str:
        """One word for the state of the engine."""
        ...


class Health(TypedDict):
    """The state of the service, of its engine, and of the store, where that matters."""

    status: Literal["ok", "degraded", "draining", "unavailable"]
    engine: str
    store: NotRequired[StoreState]


class Probe:
    """Answers 200 while `good` holds, else 503; the body says so, and the engine's state.

    It names that of the store, too, where there is one. Requests are answered without it. With a
    `drain` it is the question for new requests: 503 `draining` from the notice on.
    """

    def __init__(
        self,
        health: State,
        good: Callable[[State], bool],
        store: Callable[[], StoreState] | None = None,
        drain: Drain | None = None,
    ) -> None:
        self._health = health
        self._good = good
        self._store = store
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange_of(scope, "health")
        good = self._good(self._health)
        body: Health = {"status": "ok" if good else "unavailable", "engine": self._health.state}
        if self._store is not None:
            body["store"] = self._store()
            if good and body["store"] != "ok":
                body["status"] = "degraded"
        if self._drain is not None and self._drain.draining:
            good, body["status"] = False, "draining"
        await reply_json(send, body, 200 if good else 503)


class MetricsPage:
    """Answers with every metric; `collect` brings the gauges up to date and returns the text."""

    def __init__(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        self._collect = collect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange_of(scope, "metrics")
        await reply(send, 200, await self._collect(), CONTENT_TYPE.encode())


def probe_operations(
    state: State,
    store: Callable[[], StoreState] | None,
    drain: Drain,
    collect: Callable[[], Awaitable[bytes]],
) -> list[Operation]:
    """Returns the operations of orchestrators and collectors."""
    alive = Probe(state, lambda state: state.alive)
    ready = Probe(state, lambda state: state.ready, store, drain)
    probes = (
        ("/livez", alive, "Tell whether the process lives"),
        ("/readyz", ready, "Tell whether requests are answered"),
        ("/health", ready, "Tell the same as /readyz"),
    )
    return [
        *(
            Operation("GET", path, probe, summary, gives=Health, unavailable=Health)
            for path, probe, summary in probes
        ),
        Operation("GET", "/metrics", MetricsPage(collect), "Tell every metric"),
    ]
