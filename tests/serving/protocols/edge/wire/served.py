"""The product's own server in the test's process, on sockets that the test opened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from serving.protocols.edge.server import Server
from serving.settings import Http
from tests.serving.protocols.edge.server import until


@asynccontextmanager
async def served(
    app: Starlette,
    listener: socket.socket,
    http: Http,
    *,
    slow_client_seconds: float = 30.0,
) -> AsyncGenerator[Server]:
    """Serves `app` on `listener`; in the end it leaves without notice."""

    async def announce(listener: socket.socket, tls: bool) -> None:
        """Says nothing."""

    config = uvicorn.Config(app, ws="wsproto", log_level="critical")
    server = Server(config, http, announce, app.state.drain, app.state.slots, slow_client_seconds)
    running = asyncio.create_task(server.serve([listener]))
    await until(lambda: bool(server.started and server.servers) or running.done())
    try:
        yield server
    finally:
        app.state.drain.begin(0)
        server.should_exit = True
        await running
