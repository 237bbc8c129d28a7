"""The client of the Model Context Protocol against a server on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx2
import pytest

from serving.tools.mcp import PROTOCOL_VERSION, McpError, McpRefusedError, McpSession, ToolResult
from tests.serving.tools.server import GARBAGE, TOKEN, ToolServer


@pytest.fixture
async def client() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as client:
        yield client


def session_with(
    client: httpx2.AsyncClient, url: str, headers: dict[str, str] | None = None
) -> McpSession:
    return McpSession(client, url, headers or {}, 1_000_000)


async def test_a_session_from_its_beginning_to_its_end(
    server: ToolServer, client: httpx2.AsyncClient
) -> None:
    session = session_with(client, server.url)
    await session.open()
    assert await session.call("python", {"code": "print(1)"}) == ToolResult("ran: print(1)", False)
    assert await session.call("search", {"query": "x"}) == ToolResult(
        '[0] search {"query": "x"}', False
    )
    assert server.calls == [
        ("session-1", "python", {"code": "print(1)"}),
        ("session-1", "search", {"query": "x"}),
    ]
    assert server.versions == {PROTOCOL_VERSION}
    await session.end()
    assert not server.sessions
    assert not server.cancelled


async def test_what_a_tool_says_of_itself_is_kept(
    server: ToolServer, client: httpx2.AsyncClient
) -> None:
    session = session_with(client, server.url)
    await session.open()
    assert (await session.call("python", {"code": "fail now"})).is_error
    parts = await session.call("python", {"code": "image"})
    assert parts.text == "See:\n[image, which is not text]"


async def test_a_refusal_leaves_the_session_as_it_is(
    server: ToolServer, client: httpx2.AsyncClient
) -> None:
    session = session_with(client, server.url)
    await session.open()
    with pytest.raises(McpRefusedError, match="refused the call: no such thing"):
        await session.call("python", {"code": "refuse no such thing"})
    assert (await session.call("python", {"code": "1"})).text == "ran: 1"


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_an_error_that_says_so(client: httpx2.AsyncClient, kind: str) -> None:
    async with ToolServer().running() as server:
        session = session_with(client, server.url)
        await session.open()
        with pytest.raises(McpError) as failed:
            await session.call("python", {"code": f"garbage {kind}"})
        assert server.url not in str(failed.value)


async def test_a_server_that_is_not_there_is_an_error(client: httpx2.AsyncClient) -> None:
    async with ToolServer().running() as server:
        url = server.url
    with pytest.raises(McpError, match="cannot be reached"):
        await session_with(client, url).open()


async def test_a_token_opens_a_server_that_wants_one(client: httpx2.AsyncClient) -> None:
    async with ToolServer(token=TOKEN).running() as server:
        with pytest.raises(McpError, match="answered with status 401"):
            await session_with(client, server.url).open()
        await session_with(client, server.url, {"authorization": f"Bearer {TOKEN}"}).open()


async def test_a_call_that_is_given_up_is_cancelled_at_the_server(
    server: ToolServer, client: httpx2.AsyncClient
) -> None:
    session = session_with(client, server.url)
    await session.open()
    call = asyncio.create_task(session.call("python", {"code": "wait"}))
    await server.called.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await session.end()
    assert server.cancelled == [2]
    assert not server.sessions


async def test_the_end_of_a_server_that_is_gone_is_no_error(client: httpx2.AsyncClient) -> None:
    async with ToolServer().running() as server:
        session = session_with(client, server.url)
        await session.open()
    await session.end()


async def test_a_session_that_the_server_forgot_is_an_error(
    server: ToolServer, client: httpx2.AsyncClient
) -> None:
    session = session_with(client, server.url)
    await session.open()
    server.sessions.clear()
    with pytest.raises(McpError, match="answered with status 404"):
        await session.call("python", {"code": "1"})
