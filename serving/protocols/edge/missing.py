"""Everything that is not there: 404, or 405 where only the method is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.replies import reply_error


class Missing:
    """Answers for every path and method that no route before it has taken."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; with 405 comes the list of methods that are allowed."""
        exchange = exchange_of(scope, "unmatched")
        allowed: set[str] = set()
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL:
                allowed |= route.methods or set()
        if not allowed:
            raise ServingError(ErrorKind.NOT_FOUND, "There is nothing at this address.")
        exchange.error = ServingError(
            ErrorKind.METHOD_NOT_ALLOWED, "This address does not take this method."
        )
        allow = (b"allow", ", ".join(sorted(allowed)).encode())
        await reply_error(send, exchange.error, exchange.describe(exchange.error), [allow])
