"""A small MCP server on a real socket: it does what the code it is sent says, and remembers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.serving.protocols.edge.server import listening

Json = dict[str, Any]
TOKEN = "for the executor alone"

GARBAGE: dict[str, Response] = {
    "no json": Response(b"{", media_type="application/json"),
    "a list": JSONResponse([1]),
    "depth": Response(b"[" * 100_000, media_type="application/json"),
    "a bad session": Response(b"{}", headers={"mcp-session-id": "\xe9" * 3}),
    "a long session": Response(b"{}", headers={"mcp-session-id": "x" * 2000}),
    "no result": JSONResponse({"jsonrpc": "2.0", "id": 2}),
    "another id": JSONResponse({"jsonrpc": "2.0", "id": 99, "result": {"content": []}}),
    "no content": JSONResponse({"jsonrpc": "2.0", "id": 2, "result": {"content": "text"}}),
    "a page": Response(b"<html>", media_type="text/html"),
    "a redirect": Response(status_code=307, headers={"location": "http://127.0.0.1:9/"}),
    "an error": Response(status_code=500),
    "bytes": Response(b'data: "\xff"\n\n', media_type="text/event-stream"),
    "the end": Response(b": nothing\n\n", media_type="text/event-stream"),
    "huge": Response(b'data: "' + b"x" * 2_000_000, media_type="text/event-stream"),
}
"""Answers to a second request that are none."""


class ToolServer:
    """The server and what it has seen. `python` plays its code; the browser's tools echo."""

    def __init__(self, *, plain: bool = False, token: str | None = None) -> None:
        """Answers with JSON when `plain`, else with streams. Wants a token where there is one."""
        self.plain = plain
        self.token = token
        self.sessions: set[str] = set()
        self.opened = 0
        self.calls: list[tuple[str, str, Json]] = []
        """(session, tool, arguments) of each call."""
        self.cancelled: list[int] = []
        self.versions: set[str | None] = set()
        self.called = asyncio.Event()
        self.told_to_stop = asyncio.Event()
        self.ended = asyncio.Event()
        self.deaf = False
        """Does not answer to a beginning."""
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[ToolServer]:
        """Listens."""
        routes = [Route("/mcp", self._post, methods=["POST"])]
        routes.append(Route("/mcp", self._delete, methods=["DELETE"]))
        async with listening(Starlette(routes=routes)) as port:
            self.url = f"http://127.0.0.1:{port}/mcp"
            try:
                yield self
            finally:
                self.told_to_stop.set()

    async def _post(self, request: Request) -> Response:
        if (
            self.token is not None
            and request.headers.get("authorization") != f"Bearer {self.token}"
        ):
            return Response(status_code=401)
        message: Json = await request.json()
        if message["method"] == "initialize":
            return await self._initialize(message)
        self.versions.add(request.headers.get("mcp-protocol-version"))
        session = request.headers.get("mcp-session-id", "")
        if session not in self.sessions:
            return Response(status_code=404)
        if "id" not in message:
            if message["method"] == "notifications/cancelled":
                self.cancelled.append(message["params"]["requestId"])
                self.told_to_stop.set()
            return Response(status_code=202)
        params = message["params"]
        self.calls.append((session, params["name"], params["arguments"]))
        self.called.set()
        return await self._call(message["id"], params["name"], params["arguments"])

    async def _initialize(self, message: Json) -> Response:
        if self.deaf:
            await self.told_to_stop.wait()
        self.opened += 1
        session = f"session-{self.opened}"
        self.sessions.add(session)
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "test", "version": "1"},
        }
        return self._answer(message["id"], {"result": result}, {"mcp-session-id": session})

    async def _delete(self, request: Request) -> Response:
        self.sessions.discard(request.headers.get("mcp-session-id", ""))
        self.ended.set()
        return Response(status_code=200)

    async def _call(self, number: int, tool: str, arguments: Json) -> Response:
        if tool == "open" and str(arguments.get("id", "")).startswith("https://"):
            return self._text(number, f"[7] A page ({arguments['id']})\n**lines [0 - 1]**\n\nL0: x")
        if tool != "python":
            return self._text(number, f"[0] {tool} {json.dumps(arguments, sort_keys=True)}")
        code = arguments["code"]
        verb, _, rest = code.partition(" ")
        if verb == "garbage":
            return GARBAGE[rest]
        if verb == "refuse":
            error = {"code": -32602, "message": rest}
            return self._answer(number, {"error": error})
        if verb == "wait":
            await self.told_to_stop.wait()
        if verb == "repeat":
            return self._text(number, rest * 10_000)
        if verb == "image":
            parts: list[Json] = [{"type": "text", "text": "See:"}, {"type": "image", "data": ""}]
            return self._answer(number, {"result": {"content": parts}})
        return self._text(number, f"ran: {code}", is_error=verb == "fail")

    def _text(self, number: int, text: str, *, is_error: bool = False) -> Response:
        content = [{"type": "text", "text": text}]
        return self._answer(number, {"result": {"content": content, "isError": is_error}})

    def _answer(self, number: int, fields: Json, headers: dict[str, str] | None = None) -> Response:
        message = {"jsonrpc": "2.0", "id": number, **fields}
        if self.plain:
            return JSONResponse(message, headers=headers)

        async def stream() -> AsyncIterator[bytes]:
            yield b": hello\r\n\r\nevent: message\r\ndata: "
            yield b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {}}\r\n\r'
            text = json.dumps(message, indent=1).encode()
            for line in text.split(b"\n"):
                yield b"\ndata: " + line
            yield b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


Serve = Callable[..., Awaitable[ToolServer]]
