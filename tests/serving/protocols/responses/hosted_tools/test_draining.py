"""A service that takes leave while an executor works for a response."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.serving.protocols.edge.server import MODEL, until
from tests.serving.protocols.responses.hosted_tools.scene import PYTHON, running
from tests.serving.tools.server import ToolServer


async def test_a_call_that_is_not_over_in_time_fails_the_response(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}}
    at_once = {"notice_seconds": 0, "running_seconds": 0}
    async with (
        asyncio.timeout(20),  # far less than a call may take
        running(directory, tmp_path / "store", tools, drain=at_once) as (app, client),
    ):
        stream = await client.responses.create(
            model=MODEL, input="please wait", tools=[PYTHON], stream=True
        )
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.code_interpreter_call.interpreting":
                app.state.drain.begin()
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert "shutting down" in events[-1].response.error.message
        await until(lambda: bool(app.state.drain.done))
