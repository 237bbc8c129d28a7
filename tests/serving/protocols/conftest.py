"""A running API over an engine that the test plays."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.app import create_app
from serving.boundary.lifecycle import EngineState
from serving.control.admission import Admission
from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.pipeline import Pipeline
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Settings
from tests.serving.conftest import NoRecords
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import Api, listening, until_ready

Start = Callable[..., Awaitable[Api]]


@pytest.fixture
async def start(
    engine_directory: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Start]:
    """Returns a function that starts an API: its engine, ready or not, and settings."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    async with AsyncExitStack() as stack:

        async def begin(
            engine: FakeEngine | None = None,
            *,
            ready: bool = True,
            directory: Path = engine_directory,
            **settings: Any,
        ) -> Api:
            engine = engine or FakeEngine()
            app = create_app(Settings(**{"log_level": "error", **settings}), launch=engine.launch)
            app.state.engine_directory = directory
            port = await stack.enter_async_context(listening(app))
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)
            )
            if ready:
                await until_ready(app.state.service)
            return Api(port, app, engine, client)

        yield begin


@pytest.fixture
async def api(start: Start) -> Api:
    """A ready API with the settings that are the defaults."""
    return await start()


class NoGrammars:
    """Finds nothing that can be used."""

    async def require(self, grammar: str, param: str | None) -> None:
        """Refuses."""
        raise ServingError(ErrorKind.INVALID_VALUE, "The schema cannot be used.", param=param)


@pytest.fixture
def binding(backend: Backend, vocabulary: Vocabulary) -> Backend:
    """A backend that can hold answers to a grammar."""
    engine = FakeEngine()
    engine.state = EngineState.READY
    engine.facts = msgspec.structs.replace(
        engine.facts, capabilities=(*engine.facts.capabilities, "grammar")
    )
    pipeline = Pipeline(
        engine,
        vocabulary,
        Admission(8, 8),
        Settings().deadlines,
        NoRecords(),
        lambda: 0.0,
        NoGrammars(),
    )
    return Backend(backend.manifest, vocabulary, pipeline, "2026-01-31", backend.names)
