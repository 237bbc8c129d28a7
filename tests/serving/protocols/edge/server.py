"""The app behind a real socket: what httpx's in-memory transport cannot show is tested so."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from serving.fleet.service import Service
from serving.protocols.edge.wire.protocols import use_protocols
from tests.serving.fake_engine import FakeEngine

MODEL = "openai/gpt-oss-120b"
WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Api:
    """A running server, the engine behind it, and a client."""

    port: int
    app: Starlette
    engine: FakeEngine
    client: httpx.AsyncClient

    @property
    def service(self) -> Service:
        """The state of the service."""
        service: Service = self.app.state.service
        return service

    def ask(self, **fields: Any) -> asyncio.Task[httpx.Response]:
        """Begins a chat request; `fields` come on top of a simple one."""
        return asyncio.create_task(
            self.client.post("/v1/chat/completions", json=chat_body(**fields))
        )

    async def metrics(self) -> dict[str, float]:
        """Returns every metric of the page."""
        page = (await self.client.get("/metrics")).text
        lines = [line for line in page.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def chat_body(**fields: Any) -> dict[str, Any]:
    """Returns the body of a simple chat request with `fields` set."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields}


@asynccontextmanager
async def listening(
    app: ASGIApp, lifespan: Literal["on", "off"] = "on", path: Path | None = None
) -> AsyncGenerator[int]:
    """Serves `app` on a free port, which it yields, or on a Unix socket at `path`."""
    config = uvicorn.Config(
        app,
        proxy_headers=False,
        log_level="critical",
        lifespan=lifespan,
        timeout_graceful_shutdown=1,
    )
    use_protocols(config)
    server = uvicorn.Server(config)
    kind, address = (
        (socket.AF_INET, ("127.0.0.1", 0)) if path is None else (socket.AF_UNIX, str(path))
    )
    with socket.create_server(address, family=kind) as listener:
        port = int(listener.getsockname()[1]) if path is None else 0
        running = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started or running.done())
        try:
            yield port
        finally:
            server.should_exit = True
            await running


async def until(condition: Callable[[], bool]) -> None:
    """Waits until `condition` holds. Raises TimeoutError when it does not come about."""
    due = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < due:
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("what the test waits for has not come")


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until `condition`, which is to be asked for, holds. Raises TimeoutError as `until`."""
    due = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < due:
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("what the test waits for has not come")


async def until_ready(service: Service) -> None:
    """Waits until requests are answered."""
    await until(lambda: service.ready)


class RawClient:
    """One HTTP connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(
        self, body: dict[str, Any], *headers: str, path: str = "/v1/chat/completions"
    ) -> None:
        """Sends a request, to Chat Completions unless `path` says otherwise."""
        payload = json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "host: test",
            "content-type: application/json",
            f"content-length: {len(payload)}",
            *headers,
        ]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Returns the status, the headers and the body of a response with a length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def leave(self) -> None:
        """Closes the connection."""
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    """Yields a connection, closed at the end."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        await client.leave()


def sse_events(text: str) -> list[Any]:
    """Returns the JSON of each event of a stream, and `[DONE]` as a string."""
    events: list[Any] = []
    for block in text.split("\n\n")[:-1]:
        assert block.startswith("data: ")
        data = block.removeprefix("data: ")
        events.append(data if data == "[DONE]" else json.loads(data))
    return events
