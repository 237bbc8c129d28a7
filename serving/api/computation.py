"""Endpoints that answer from the request alone: nothing is generated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from serving.api.body import require_json
from serving.api.exchange import exchange_of
from serving.api.limits import read_body
from serving.api.replies import reply_json
from serving.settings import Limits

Compute = Callable[[bytes], dict[str, object]]
"""From a request's body to its answer. Raises ServingError."""


class Computation:
    """An ASGI application. `route` is its metric label; a large body is answered in a thread."""

    def __init__(self, route: str, limits: Limits, compute: Compute) -> None:
        self._route = route
        self._limits = limits
        self._compute = compute

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        exchange_of(scope, self._route)
        require_json(scope)
        body = await read_body(receive)
        if len(body) > self._limits.thread_body_bytes:
            answer = await asyncio.to_thread(self._compute, body)
        else:
            answer = self._compute(body)
        await reply_json(send, answer)
