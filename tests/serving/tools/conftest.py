"""A running MCP server."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.serving.tools.server import ToolServer


@pytest.fixture(params=[False, True], ids=["streams", "plain"])
async def server(request: pytest.FixtureRequest) -> AsyncGenerator[ToolServer]:
    """A server that answers with streams, and one that answers with JSON."""
    async with ToolServer(plain=request.param).running() as running:
        yield running
