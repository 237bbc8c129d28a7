"""The client against the server of the protocol's own package, in each of its ways to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from mcp.server.mcpserver import MCPServer

from serving.settings import Tools
from serving.tools.executors import Executors, Outcome, Toolbox
from tests.serving.protocols.edge.server import listening

LONG_SECONDS = 10.0


class Notebook:
    """What a test knows of the tools that the server runs."""

    def __init__(self) -> None:
        self.server = MCPServer("executor")
        self.waiting = asyncio.Event()
        self.stopped = asyncio.Event()
        self.server.tool(name="python")(self.python)
        self.server.tool(name="search")(self.search)

    async def python(self, code: str) -> str:
        """Runs nothing."""
        if code == "fail":
            raise RuntimeError("of the executor's own")
        if code == "wait":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
        return f"ran: {code}"

    async def search(self, query: str, topn: int = 10, source: str | None = None) -> list[str]:
        """Finds what it is given."""
        return [f"[0] {query}", f"{topn} {source}"]


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture(params=["streams", "json", "stateless"])
async def executors(
    request: pytest.FixtureRequest, notebook: Notebook
) -> AsyncGenerator[Executors]:
    app = notebook.server.streamable_http_app(
        json_response=request.param == "json", stateless_http=request.param == "stateless"
    )
    async with listening(app) as port:
        where = {"url": f"http://127.0.0.1:{port}/mcp"}
        settings = Tools.model_validate({"python": where, "browser": where})
        toolbox = Toolbox(settings, time.monotonic, lambda *_: None)
        opened = toolbox.executors(["python", "browser"])
        await opened.open()
        yield opened
        opened.close()
        await toolbox.close()


async def test_calls_and_what_they_say(executors: Executors) -> None:
    ran = await executors.call("python", "1 + 1", LONG_SECONDS)
    assert ran == Outcome("ran: 1 + 1", "completed")
    found = await executors.call("browser.search", '{"query": "x", "topn": 3}', LONG_SECONDS)
    assert found == Outcome("[0] x\n3 None", "completed")


async def test_failures_and_tools_that_are_not_there(executors: Executors) -> None:
    failed = await executors.call("python", "fail", LONG_SECONDS)
    assert failed.outcome == "failed"
    missing = await executors.call("browser.open", "{}", LONG_SECONDS)
    assert missing.outcome == "failed"
    assert "open" in missing.output
    wrong = await executors.call("browser.search", '{"nothing": 1}', LONG_SECONDS)
    assert wrong.outcome == "failed"
    assert (await executors.call("python", "1", LONG_SECONDS)).outcome == "completed"


async def test_a_call_whose_client_leaves_is_stopped(
    executors: Executors, notebook: Notebook
) -> None:
    call = asyncio.create_task(executors.call("python", "wait", LONG_SECONDS))
    async with asyncio.timeout(LONG_SECONDS):
        await notebook.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        executors.close()
        await notebook.stopped.wait()
