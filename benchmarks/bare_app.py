"""The least that can stream: an ASGI app that reads the body and sends one chunk every step.

It stands for what HTTP, uvicorn and the machine cost by themselves, with as many bytes on as many
connections: `uvicorn benchmarks.bare_app:app`. As an engine does, one timer wakes all streams.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

CHUNK = b"data: " + b"x" * 240 + b"\n\n"
"""About as long as a chunk of Chat Completions."""
END = b'data: {"completion_tokens":%d,}\n\ndata: [DONE]\n\n'


class BareApp:
    """A request says how many `chunks` it gets, and how many seconds a step takes."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST with a stream, and everything else with an empty page."""
        if scope["type"] != "http":
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] != "POST":
            await send({"type": "http.response.body", "body": b""})
            return
        asked = await _read(receive)
        for _ in range(asked["chunks"]):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            await self._step(asked["step_seconds"])
        await send({"type": "http.response.body", "body": END % asked["max_tokens"]})

    async def _step(self, seconds: float) -> None:
        """Returns at the next step, which is the same for all streams."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(seconds, self._wake)
        future = loop.create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


async def _read(receive: Receive) -> dict[str, Any]:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked: dict[str, Any] = json.loads(body)
    return asked


app = BareApp()
