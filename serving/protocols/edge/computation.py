"""Endpoints that answer at once: nothing is generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.types import Receive, Scope, Send

from serving.generation.watch import within
from serving.protocols.edge.body import require_json
from serving.protocols.edge.connection import ClientConnection
from serving.protocols.edge.exchange import Exchange, exchange_of
from serving.protocols.edge.generation import Services
from serving.protocols.edge.limits import read_body
from serving.protocols.edge.replies import reply
from serving.protocols.edge.timeout import requested_seconds

Answer = Callable[[bytes, Exchange], Awaitable[bytes]]
"""From a request's body to the JSON of its answer. Raises ServingError."""


class Computation:
    """An ASGI application. `route` is its metric label.

    The answer is given up when its client leaves and when the request's time is over.
    """

    def __init__(self, route: str, services: Services, answer: Answer) -> None:
        self._route = route
        self._services = services
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        services = self._services
        exchange = exchange_of(scope, self._route)
        require_json(scope)
        body = await read_body(receive)
        slow_client_seconds = services.settings.deadlines.slow_client_seconds
        async with ClientConnection(
            receive, send, services.clock, slow_client_seconds
        ) as connection:
            async with within(services.left_seconds(exchange.accepted, requested_seconds(scope))):
                answer = await self._answer(body, exchange)
            await reply(connection.send, 200, answer, b"application/json")


def counting(
    route: str, services: Services, compute: Callable[[bytes], Mapping[str, object]]
) -> Computation:
    """Returns an endpoint that counts or names tokens: `compute` makes the answer of a body."""

    async def answer(body: bytes, exchange: Exchange) -> bytes:
        return await services.counting.run_sized(
            len(body), lambda: msgspec.json.encode(compute(body))
        )

    return Computation(route, services, answer)
