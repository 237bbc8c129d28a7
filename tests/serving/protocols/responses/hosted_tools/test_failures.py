"""Built-in tools that fail, are refused, or are given up, through the official client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving.protocols.edge.server import MODEL, connected, until
from tests.serving.protocols.responses.hosted_tools.scene import (
    BROWSER,
    FUNCTION,
    PYTHON,
    kinds,
    running,
    streamed,
)
from tests.serving.tools.server import ToolServer


@pytest.mark.parametrize("words", ["please fail here", "please garbage no json"])
async def test_a_call_that_fails_is_told_to_the_model_and_shown(
    client: openai.AsyncOpenAI, words: str
) -> None:
    response = await client.responses.create(model=MODEL, input=words, tools=[PYTHON])
    assert (response.status, response.output_text) == ("completed", "Done.")
    assert response.output[1].type == "code_interpreter_call"
    assert response.output[1].status == "failed"


async def test_a_call_that_takes_too_long_is_told_to_the_model(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}, "call_seconds": 0.05}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        response = await client.responses.create(model=MODEL, input="please wait", tools=[PYTHON])
        assert (response.status, response.output_text) == ("completed", "Done.")
        assert response.output[1].to_dict()["status"] == "failed"
        async with asyncio.timeout(10):
            await executor.told_to_stop.wait()


async def test_a_search_without_arguments_is_not_made(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    response = await client.responses.create(model=MODEL, input="find nothing", tools=[BROWSER])
    call = response.output[0]
    assert call.type == "web_search_call"
    assert call.status == "failed"
    assert not executor.calls


async def test_calls_are_as_many_as_the_request_allows(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    response = await client.responses.create(
        model=MODEL, input="please endless", tools=[PYTHON], max_tool_calls=1
    )
    assert len(executor.calls) == 1
    assert response.status == "incomplete"
    calls = [item for item in response.output if item.type == "code_interpreter_call"]
    assert [call.status for call in calls] == ["completed"] + ["incomplete"] * 3
    executor.calls.clear()
    await client.responses.create(
        model=MODEL, input="please endless", tools=[PYTHON], max_tool_calls=99
    )
    assert len(executor.calls) == 3


async def test_a_response_that_is_cancelled_in_a_call_ends_it(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    begun = await client.responses.create(
        model=MODEL, input="please wait", tools=[PYTHON], background=True
    )
    async with asyncio.timeout(10):
        await executor.called.wait()
    cancelled = await client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert [item.to_dict()["status"] for item in cancelled.output] == ["completed", "incomplete"]
    async with asyncio.timeout(10):
        await executor.told_to_stop.wait()
    await until(lambda: not executor.sessions)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "mcp", "server_label": "mine"}, "tools[0].server_label"),
        (
            {"type": "mcp", "server_label": "python", "server_url": "http://127.0.0.1:1/"},
            "tools[0].server_url",
        ),
        (
            {"type": "mcp", "server_label": "python", "authorization": "x"},
            "tools[0].authorization",
        ),
        ({"type": "code_interpreter", "container": "cntr_1"}, "tools[0].container"),
        (
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}},
            "tools[0].container.file_ids",
        ),
        ({"type": "web_search", "filters": {"allowed_domains": ["a"]}}, "tools[0].filters"),
        ({"type": "image_generation"}, "tools[0].type"),
        ({"type": "file_search", "vector_store_ids": ["x"]}, "tools[0].type"),
    ],
)
async def test_what_cannot_be_had_of_a_tool_is_refused_by_name(
    client: openai.AsyncOpenAI, executor: ToolServer, tool: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="hello", tools=[tool])
    assert refused.value.param == param
    assert refused.value.code == "unsupported_value"
    assert not executor.opened


async def test_a_tool_that_is_off_is_refused_by_its_setting(
    directory: Path, tmp_path: Path
) -> None:
    async with running(directory, tmp_path / "store", {}) as (_, client):
        with pytest.raises(openai.BadRequestError, match=r"'tools\.browser'") as refused:
            await client.responses.create(model=MODEL, input="hello", tools=[FUNCTION, BROWSER])
        assert refused.value.param == "tools[1].type"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_executor_that_is_gone_is_a_503_before_anything_is_made(
    directory: Path, executor: ToolServer, tmp_path: Path, stream: bool
) -> None:
    async with ToolServer().running() as gone:
        tools = {"python": {"url": gone.url}}
    async with running(directory, tmp_path / "store", tools) as (app, client):
        with pytest.raises(openai.APIStatusError) as refused:
            await client.responses.create(
                model=MODEL, input="please run me", tools=[PYTHON], stream=stream
            )
        assert (refused.value.status_code, refused.value.code) == (503, "tool_unavailable")
        assert "'python'" in str(refused.value)
        assert gone.url not in str(refused.value)
        # And a response in the background does not come into being.
        with pytest.raises(openai.APIStatusError):
            await client.responses.create(
                model=MODEL, input="please run me", tools=[PYTHON], background=True
            )
        page = (await app.state.service.metrics()).decode()
        assert 'route="responses"' in page


async def test_a_client_that_leaves_in_a_call_ends_it(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        port = int(httpx.URL(str(client.base_url)).port or 0)
        body = {"model": MODEL, "input": "please wait", "tools": [PYTHON], "stream": True}
        async with connected(port) as raw:
            await raw.post(body, path="/v1/responses")
            async with asyncio.timeout(10):
                await executor.called.wait()
        async with asyncio.timeout(10):
            await executor.told_to_stop.wait()
            await executor.ended.wait()
        assert executor.cancelled == [2]


async def test_an_engine_that_dies_in_a_later_round_fails_the_stream(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        events = await streamed(client, input="please then murder", tools=[PYTHON])
        last = events[-1]
        assert last.type == "response.failed"
        assert kinds(last.response) == ["reasoning", "code_interpreter_call"] * 2 + ["reasoning"]
        statuses = [item.to_dict()["status"] for item in last.response.output]
        assert statuses == ["completed"] * 4 + ["incomplete"]
        await until(lambda: not executor.sessions)
