"""What the edge knows of one HTTP request and its response."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from starlette.types import Scope

from serving.control.callers import Caller
from serving.errors import ServingError
from serving.protocols.edge.dialect import OPENAI, Dialect
from serving.telemetry.recorder import Gathering

_KEY = "llmserve.exchange"
_TURNS_KEY = "llmserve.turns"

Turns = Callable[[str], AbstractContextManager["Exchange"]]
"""Opens the exchange of one request on a connection that has many, given its route. What the block
raises becomes the exchange's error, and in the end it is recorded as a request is."""


class Exchange:
    """One request: its id, whose it is, where it went, and what has become of it.

    `route` is the metric label, a word of ours. `recorded` is set once somebody, such as the
    pipeline, has undertaken to count it. `error` is what it was answered with. `dialect` says in
    whose shape. `prompt_tokens` are for the record, where nobody else counts it, and `client`,
    `method`, `status` and the bytes for the log.
    """

    __slots__ = (
        "accepted",
        "bytes_received",
        "bytes_sent",
        "caller",
        "client",
        "dialect",
        "error",
        "gathering",
        "method",
        "prompt_tokens",
        "recorded",
        "request_id",
        "route",
        "started",
        "status",
    )

    def __init__(
        self,
        request_id: str,
        accepted: float,
        gathering: Gathering,
        *,
        caller: Caller,
        client: str | None,
        method: str | None = None,
        dialect: Dialect = OPENAI,
    ) -> None:
        self.gathering = gathering
        self.client = client
        self.method = method
        self.status: int | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.dialect = dialect
        self.caller = caller
        self.request_id = request_id
        self.accepted = accepted
        self.route = "unmatched"
        self.prompt_tokens = 0
        self.started = False
        self.recorded = False
        self.error: ServingError | None = None

    def describe(self, error: ServingError) -> dict[str, object]:
        """Returns the body that tells this client of an error."""
        return self.dialect.describe(error, self.request_id)


def attach(scope: Scope, exchange: Exchange) -> None:
    """Makes `exchange` the one of the request that `scope` describes."""
    scope[_KEY] = exchange


def exchange_of(scope: Scope, route: str | None = None) -> Exchange:
    """Returns the exchange of a request, which has now come to `route` where one is given."""
    exchange: Exchange = scope[_KEY]
    if route is not None:
        exchange.route = route
    return exchange


def attach_turns(scope: Scope, turns: Turns) -> None:
    """Makes `turns` open the exchanges of the connection that `scope` describes."""
    scope[_TURNS_KEY] = turns


def turns_of(scope: Scope) -> Turns:
    """Returns what opens the exchanges of a connection."""
    turns: Turns = scope[_TURNS_KEY]
    return turns
