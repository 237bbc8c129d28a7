"""A service with built-in tools: a replay engine in its own process, and an executor."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest

from serving.harmony.vocabulary import Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.responses.hosted_tools.scene import (
    make_script,
    running,
)
from tests.serving.tools.server import ToolServer


@pytest.fixture
async def executor() -> AsyncGenerator[ToolServer]:
    async with ToolServer().running() as server:
        yield server


@pytest.fixture
async def directory(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    return replay_engine(make_script(vocabulary))


@pytest.fixture
async def client(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> AsyncGenerator[openai.AsyncOpenAI]:
    where = {"url": executor.url}
    tools = {"python": where, "browser": where, "max_calls": 3}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        yield client
