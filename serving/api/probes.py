"""Health and metrics: what orchestrators and collectors ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from serving.api.exchange import exchange_of
from serving.api.replies import reply, reply_json
from serving.control.drain import Drain
from serving.telemetry.metrics import CONTENT_TYPE

PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Answered whatever else is refused."""


class Health(Protocol):
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


class Probe:
    """Answers 200 while `good` holds, else 503; the body says so, and the engine's state.

    It names that of the store, too, where there is one. Requests are answered without it. With a
    `drain` it is the question for new requests: 503 `draining` from the notice on.
    """

    def __init__(
        self,
        health: Health,
        good: Callable[[Health], bool],
        store: Callable[[], str] | None = None,
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
        body = {"status": "ok" if good else "unavailable", "engine": self._health.state}
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
