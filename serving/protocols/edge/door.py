"""Who may come in now: nobody while the service leaves, probes alone above the bound."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.control.drain import Drain, draining
from serving.errors import ServingError
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.limits import discard_body
from serving.protocols.edge.wire.bounded import crowded, is_crowded
from serving.protocols.probes.endpoint import PATHS


class Door:
    """ASGI middleware, within the edge. Raises ServingError for what may not come in.

    What is in ends with the drain, too: a request that is not answered yet here, a job by itself.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] == "lifespan" or scope["path"] in PATHS:  # answered in every state
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":  # each of its requests is asked for by itself
            if refusal is not None:
                raise refusal
            await self._app(scope, receive, send)
            return
        if refusal is not None:
            await discard_body(receive)
            raise refusal
        exchange = exchange_of(scope)
        async with self._drain.bounded(lambda: not (exchange.started or exchange.recorded)):
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServingError | None:
        if self._drain.refusing.is_set():
            return draining()
        return crowded() if is_crowded(scope) else None
