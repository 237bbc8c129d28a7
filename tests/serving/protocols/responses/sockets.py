"""WebSockets of the official client and of raw frames, and an engine that answers turns."""

from __future__ import annotations

from typing import Any

import websockets
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.asyncio.client import ClientConnection

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeStream
from tests.serving.protocols.edge.server import MODEL, Api

LAST = ("response.completed", "response.incomplete", "response.failed", "error")


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    """Returns what an engine gives for an answer."""
    return render_completion(Assistant(reasoning="Hm.", content=text), vocabulary)


async def answered(connection: AsyncResponsesConnection) -> list[Any]:
    """Returns the events of a response to its last."""
    events: list[Any] = []
    while not events or events[-1].type not in LAST:
        events.append(await connection.recv())
    return events


async def turn(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary, **fields: Any
) -> tuple[list[Any], FakeStream]:
    """Returns the events of one request that is answered, and the engine's end of it."""
    number = len(api.engine.opened)
    await connection.response.create(model=MODEL, **fields)
    stream = await api.engine.next_stream(number)
    stream.give(tokens(vocabulary, f"Answer {number}"), finish="stop")
    return await answered(connection), stream


async def raw(api: Api, **options: Any) -> ClientConnection:
    """Returns a connection without the official client."""
    return await websockets.connect(f"ws://127.0.0.1:{api.port}/v1/responses", **options)
