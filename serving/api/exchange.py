"""What the edge knows of one HTTP request and its response."""

from __future__ import annotations

from starlette.types import Scope

from serving.errors import ServingError

_KEY = "llmserve.exchange"


class Exchange:
    """One request: its id, where it went, and what has become of it.

    `route` is the metric label, a word of ours. `recorded` is set once somebody, such as the
    pipeline, has undertaken to write the request's record. `error` is what it was answered with.
    """

    __slots__ = ("accepted", "error", "recorded", "request_id", "route", "started")

    def __init__(self, request_id: str, accepted: float) -> None:
        self.request_id = request_id
        self.accepted = accepted
        self.route = "unmatched"
        self.started = False
        self.recorded = False
        self.error: ServingError | None = None


def attach(scope: Scope, exchange: Exchange) -> None:
    """Makes `exchange` the one of the request that `scope` describes."""
    scope[_KEY] = exchange


def exchange_of(scope: Scope, route: str) -> Exchange:
    """Returns the exchange of a request, which has now come to `route`."""
    exchange: Exchange = scope[_KEY]
    exchange.route = route
    return exchange
