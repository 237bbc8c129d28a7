"""`GET /openapi.json`: what this API takes and gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.api.exchange import exchange_of
from serving.api.openapi.document import make_document
from serving.api.replies import reply
from serving.settings import Settings

ROUTE = "openapi"


class Description:
    """Answers with the document, which is made when somebody first asks for it.

    `names` gives those of the language model as far as they are known.
    """

    def __init__(
        self, routes: Iterable[Route], settings: Settings, names: Callable[[], tuple[str, ...]]
    ) -> None:
        self._names = names
        self._make = lambda names: msgspec.json.encode(make_document(routes, settings, names))
        self._made: dict[tuple[str, ...], asyncio.Task[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange_of(scope, ROUTE)
        names = self._names()
        if names not in self._made:
            self._made[names] = asyncio.create_task(asyncio.to_thread(self._make, names))
        # All who ask wait for the one document, and none takes it along when it leaves.
        document = await asyncio.shield(self._made[names])
        await reply(send, 200, document, b"application/json")
