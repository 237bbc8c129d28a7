"""The least that can stream: a Starlette app that reads the body and sends one chunk every step.

It stands for what HTTP, uvicorn and the machine cost by themselves, on the same connection and with
the same bytes: `uvicorn --factory benchmarks.bare_app:make_app`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

CHUNK = b"data: " + b"x" * 240 + b"\n\n"
"""About as long as a chunk of Chat Completions."""
END = b'data: {"completion_tokens":%d,}\n\ndata: [DONE]\n\n'


def make_app() -> Starlette:
    """Returns the app. A request says how many chunks it gets, `max_tokens`, and `step_seconds`."""

    async def stream(request: Request) -> StreamingResponse:
        body = json.loads(await request.body())
        return StreamingResponse(
            _chunks(body["max_tokens"], body["step_seconds"]), media_type="text/event-stream"
        )

    async def ready(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ready")

    return Starlette(
        routes=[Route("/v1/chat/completions", stream, methods=["POST"]), Route("/readyz", ready)]
    )


async def _chunks(count: int, step_seconds: float) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(count):
        yield CHUNK
        due += step_seconds
        await asyncio.sleep(max(0.0, due - loop.time()))
    yield END % count
