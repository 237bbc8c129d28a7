"""What tests of responses start from: an API with a store of its own, a connection to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.resources.responses.responses import AsyncResponsesConnection

from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api


@pytest.fixture
def store(tmp_path: Path) -> dict[str, Any]:
    """The setting of where responses are."""
    return {"path": str(tmp_path / "responses.sqlite3")}


@pytest.fixture
async def api(start: Start, store: dict[str, Any]) -> Api:
    """A ready API with a store of its own."""
    return await start(store=store)


@pytest.fixture
async def connection(api: Api) -> AsyncGenerator[AsyncResponsesConnection]:
    """A connection of the official client."""
    async with (
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none") as client,
        client.responses.connect() as connection,
    ):
        yield connection
