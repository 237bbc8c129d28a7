"""`GET /openapi.json`: what this API takes and gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from serving.protocols.edge.answers import open_ended
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.replies import reply
from serving.protocols.openapi.document import make_document
from serving.settings import Settings

ROUTE = "openapi"


@open_ended
class Document(TypedDict):
    """An OpenAPI document."""

    openapi: str
    paths: dict[str, Any]


class Description:
    """Answers with the document, which is made when somebody first asks for it.

    `names` gives those of the language model as far as they are known.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        settings: Settings,
        names: Callable[[], tuple[str, ...]],
    ) -> None:
        self._names = names
        self._make = lambda names: msgspec.json.encode(make_document(operations, settings, names))
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


def description_operation(
    operations: Sequence[Operation], settings: Settings, names: Callable[[], tuple[str, ...]]
) -> Operation:
    """Returns the operation that describes `operations`, and itself."""
    described = list(operations)
    endpoint = Description(described, settings, names)
    described.append(Operation("GET", "/openapi.json", endpoint, "Describe the API", Document))
    return described[-1]
