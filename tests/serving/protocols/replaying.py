"""The app over the real process boundary: the replay engine in its own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette

from serving.app import create_app
from serving.boundary.lifecycle import Policy, Transition
from serving.boundary.supervisor import Supervisor
from serving.fleet.service import Supervised
from serving.settings import Settings
from tests.serving.protocols.edge.server import listening, until_ready

QUICK = Policy(backoff_first_seconds=0.05, stop_seconds=2.0)


def launch(directory: Path, on_transition: Callable[[Transition], None]) -> Supervised:
    """Starts engines that come back soon."""
    return Supervisor(directory, QUICK, on_transition=on_transition)


@asynccontextmanager
async def replaying(directory: Path) -> AsyncGenerator[tuple[Starlette, str]]:
    """Yields a ready app over the engine, and the URL of its server."""
    app = create_app(Settings(log_level="error"), launch=launch)
    app.state.engine_directory = directory
    async with listening(app) as port:
        await until_ready(app.state.service)
        yield app, f"http://127.0.0.1:{port}"
