"""Executors of a response: connected, called, bounded, and told when it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import BuiltInTool
from serving.settings import Tools
from serving.tools.executors import Outcome, Toolbox, cut
from tests.serving.protocols.edge.server import until
from tests.serving.tools.server import GARBAGE, TOKEN, ToolServer

LONG_SECONDS = 10.0


class Counted:
    """The calls that a toolbox told of."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, tool: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((tool, outcome))


@asynccontextmanager
async def toolbox_of(
    server: ToolServer, counted: Counted | None = None, **settings: Any
) -> AsyncGenerator[Toolbox]:
    """Yields a toolbox whose tools are both run by `server`."""
    where = {"url": server.url, "token": server.token}
    values = {"python": where, "browser": where, **settings}
    toolbox = Toolbox(Tools.model_validate(values), time.monotonic, counted or Counted())
    try:
        yield toolbox
    finally:
        await toolbox.close()


async def test_calls_of_a_response_share_a_session_that_ends_with_it(server: ToolServer) -> None:
    counted = Counted()
    async with toolbox_of(server, counted) as toolbox:
        first, second = toolbox.executors(["python"]), toolbox.executors(["python", "browser"])
        await first.open()
        await second.open()
        assert await first.call("python", "a", LONG_SECONDS) == Outcome("ran: a", "completed")
        await first.call("python", "b", LONG_SECONDS)
        await second.call("python", "c", LONG_SECONDS)
        opened = await second.call("browser.open", '{"id": 3}', LONG_SECONDS)
        assert opened.output == '[0] open {"id": 3}'
        sessions = [session for session, _, _ in server.calls]
        assert sessions[0] == sessions[1]
        assert len(set(sessions)) == 3
        first.close()
        await until(lambda: len(server.sessions) == 2)
        assert sessions[0] not in server.sessions
    assert not server.sessions
    assert counted.calls == [("python", "completed")] * 3 + [("browser", "completed")]


async def test_a_tool_without_an_executor_is_refused_by_its_setting() -> None:
    toolbox = Toolbox(Tools(), time.monotonic, Counted())
    with pytest.raises(ServingError) as refused:
        toolbox.require("python", "tools[0]")
    assert refused.value.kind is ErrorKind.UNSUPPORTED
    assert refused.value.param == "tools[0]"
    assert "'tools.python'" in refused.value.message
    await toolbox.close()


async def test_the_description_is_that_of_the_settings() -> None:
    async with ToolServer().running() as server:
        python = {"url": server.url, "description": "Runs."}
        async with toolbox_of(server, python=python) as toolbox:
            described = BuiltInTool(name="python", description="Runs.")
            assert toolbox.require("python", "tools[0]") == described
            assert toolbox.require("browser", "tools[0]") == BuiltInTool(name="browser")


async def test_an_executor_that_is_not_there_is_named() -> None:
    async with ToolServer().running() as gone:
        browser = {"url": gone.url}
    async with ToolServer().running() as server:
        async with toolbox_of(server, browser=browser) as toolbox:
            with pytest.raises(ServingError) as refused:
                await toolbox.executors(["python", "browser"]).open()
            assert refused.value.kind is ErrorKind.TOOL_UNAVAILABLE
            assert "'browser' cannot be reached" in refused.value.message
            assert gone.url not in refused.value.message
        # The one that was there is told that it is not needed.
        assert not server.sessions


async def test_an_executor_that_does_not_answer_is_given_up() -> None:
    async with ToolServer().running() as server:
        server.deaf = True
        async with toolbox_of(server, connect_seconds=0.1) as toolbox:
            with pytest.raises(ServingError, match=r"did not answer within 0\.1 seconds"):
                await toolbox.executors(["python"]).open()


async def test_responses_with_tools_are_bounded() -> None:
    async with ToolServer().running() as server, toolbox_of(server, max_responses=1) as toolbox:
        first, second = toolbox.executors(["python"]), toolbox.executors(["python"])
        await first.open()
        with pytest.raises(ServingError) as refused:
            await second.open()
        assert refused.value.kind is ErrorKind.OVERLOADED
        first.close()
        first.close()
        await second.open()


async def test_a_token_goes_to_the_executor() -> None:
    async with ToolServer(token=TOKEN).running() as server, toolbox_of(server) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        assert (await executors.call("python", "1", LONG_SECONDS)).outcome == "completed"


async def test_a_call_that_takes_too_long_is_cancelled_and_the_next_begins_anew(
    server: ToolServer,
) -> None:
    counted = Counted()
    async with toolbox_of(server, counted, call_seconds=0.1) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        late = await executors.call("python", "wait", LONG_SECONDS)
        assert late.outcome == "failed"
        assert "did not answer within 0.1 seconds" in late.output
        async with asyncio.timeout(LONG_SECONDS):
            await server.told_to_stop.wait()
    server.told_to_stop.clear()
    async with toolbox_of(server) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        assert "within 0.05 seconds" in (await executors.call("python", "wait", 0.05)).output
        again = await executors.call("python", "1", LONG_SECONDS)
        assert again == Outcome("ran: 1", "completed")
    assert server.opened == 3
    assert counted.calls == [("python", "failed")]


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_told_to_the_model_and_the_next_call_has_a_new_session(kind: str) -> None:
    async with ToolServer().running() as server, toolbox_of(server) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        failed = await executors.call("python", f"garbage {kind}", LONG_SECONDS)
        assert failed.outcome == "failed"
        assert failed.output.startswith("Error: the tool ")
        assert server.url not in failed.output
        assert (await executors.call("python", "1", LONG_SECONDS)).outcome == "completed"
        assert server.opened == 2


async def test_a_server_that_dies_is_told_to_the_model() -> None:
    async with ToolServer().running() as server:
        settings = Tools.model_validate({"python": {"url": server.url}})
        toolbox = Toolbox(settings, time.monotonic, Counted())
        executors = toolbox.executors(["python"])
        await executors.open()
    failed = await executors.call("python", "1", LONG_SECONDS)
    assert failed == Outcome("Error: the tool cannot be reached. What it kept is lost.", "failed")
    # And again, when it cannot even be connected to.
    assert (await executors.call("python", "1", LONG_SECONDS)).outcome == "failed"
    executors.close()
    await toolbox.close()


async def test_what_a_tool_reports_is_the_model_s_to_read(server: ToolServer) -> None:
    async with toolbox_of(server) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        assert await executors.call("python", "fail x", LONG_SECONDS) == Outcome(
            "ran: fail x", "failed"
        )
        refused = await executors.call("python", "refuse no code", LONG_SECONDS)
        assert refused == Outcome("Error: the tool refused the call: no code", "failed")
        assert server.opened == 1


async def test_a_browser_call_that_is_no_object_is_not_made(server: ToolServer) -> None:
    async with toolbox_of(server) as toolbox:
        executors = toolbox.executors(["browser"])
        await executors.open()
        for text in ("{", "[1]", '"x"', "\ud800", "[" * 100_000):
            failed = await executors.call("browser.search", text, LONG_SECONDS)
            assert failed == Outcome("Error: the call's body is not a JSON object.", "failed")
        assert not server.calls
        assert (await executors.call("browser.open", " ", LONG_SECONDS)).output == "[0] open {}"


async def test_a_long_output_is_cut(server: ToolServer) -> None:
    async with toolbox_of(server, output_bytes=100) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        output = (await executors.call("python", "repeat é", LONG_SECONDS)).output
        assert output == "é" * 50 + "\n[19900 bytes more were left out.]"


def test_text_is_cut_between_characters() -> None:
    assert cut("aé", 3) == "aé"
    assert cut("aé", 2) == "a\n[1 bytes more were left out.]"
    assert cut("\ud800", 3) == "\ud800"


async def test_a_client_that_leaves_takes_the_call_with_it(server: ToolServer) -> None:
    async with toolbox_of(server) as toolbox:
        executors = toolbox.executors(["python"])
        await executors.open()
        call = asyncio.create_task(executors.call("python", "wait", LONG_SECONDS))
        await server.called.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        executors.close()
        async with asyncio.timeout(LONG_SECONDS):
            await server.told_to_stop.wait()
            await server.ended.wait()
        assert not server.sessions
