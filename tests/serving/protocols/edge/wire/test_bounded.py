"""Connections that are silent, slow or too many: none stays for ever, and probes are answered."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from serving.app import create_app
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Http, Settings
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import RawClient, chat_body, until, until_ready
from tests.serving.protocols.edge.wire.served import served

PROBE = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n"


class Door:
    """A running server, and connections to it."""

    def __init__(self, app: Any, engine: FakeEngine, address: Any, stack: AsyncExitStack) -> None:
        self.app = app
        self.engine = engine
        self.address = address
        self._stack = stack

    async def connect(self, first: bytes = b"") -> RawClient:
        """Returns a connection that has sent `first`."""
        client = RawClient(*await asyncio.open_connection(*self.address))
        self._stack.push_async_callback(break_off, client)
        client.writer.write(first)
        return client

    async def probe(self) -> int:
        """Returns the status of /livez over a new connection."""
        return (await (await self.connect(PROBE)).response())[0]

    async def closed(self, reason: str) -> float:
        """Returns how many connections were closed for this reason."""
        text = (await self.app.state.service.metrics()).decode()
        name = f'llmserve_connections_closed_total{{reason="{reason}"}} '
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0


Open = Callable[..., Awaitable[Door]]


@pytest.fixture
async def open_door(
    engine_directory: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Open]:
    """Returns a function that starts a server with settings of `http`."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    async with AsyncExitStack() as stack:

        async def begin(*, slow_client_seconds: float = 30.0, **http: Any) -> Door:
            engine = FakeEngine()
            settings = {"log_level": "warning", "drain": {"running_seconds": 0}}
            app = create_app(Settings.model_validate(settings), launch=engine.launch)
            app.state.engine_directory = engine_directory
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = listener.getsockname()
            await stack.enter_async_context(
                served(app, listener, Http(**http), slow_client_seconds=slow_client_seconds)
            )
            await until_ready(app.state.service)
            return Door(app, engine, address, stack)

        yield begin


async def break_off(client: RawClient) -> None:
    """Ends a connection from the client's side, whatever has not been sent."""
    client.writer.transport.abort()
    with suppress(OSError):
        await client.writer.wait_closed()


async def end_of(client: RawClient) -> bytes:
    """Returns what comes until the server closes the connection."""
    async with asyncio.timeout(10):
        return await client.reader.read()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"GET /livez HTTP/1.1\r\nhost: te", b"HTTP/1.1 408 "),
    ],
)
async def test_a_connection_without_a_whole_head_is_closed(
    open_door: Open, sent: bytes, told: bytes
) -> None:
    door = await open_door(head_seconds=0.2)
    client = await door.connect(sent)
    assert (await end_of(client))[: len("HTTP/1.1 408 ")] == told
    assert await door.closed("slow_head") == 1


@pytest.mark.parametrize("drops", [b"x-a: b\r\n", b"\r\n"])
@pytest.mark.parametrize("before", [b"", PROBE])
async def test_drops_do_not_lengthen_the_time_of_a_head(
    open_door: Open, drops: bytes, before: bytes
) -> None:
    door = await open_door(head_seconds=0.3)
    client = await door.connect(before)
    if before:
        assert (await client.response())[0] == 200
    ended = asyncio.create_task(end_of(client))
    if drops != b"\r\n":
        client.writer.write(b"GET /livez HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        while not ended.done():
            client.writer.write(drops)
            await asyncio.sleep(0.02)
    assert await door.closed("slow_head") == 1


async def test_a_body_that_trickles_after_its_answer_does_not_hold_the_connection(
    open_door: Open,
) -> None:
    door = await open_door(head_seconds=0.3)
    client = await door.connect(b"POST /nothing HTTP/1.1\r\nhost: t\r\ncontent-length: 999\r\n\r\n")
    assert (await client.response())[0] == 404
    ended = asyncio.create_task(end_of(client))
    async with asyncio.timeout(5):
        while not ended.done():
            client.writer.write(b"x")
            await asyncio.sleep(0.02)


async def test_an_idle_connection_and_a_running_request_outlive_the_time_of_a_head(
    open_door: Open,
) -> None:
    door = await open_door(head_seconds=0.1)
    idle, busy = await door.connect(PROBE), await door.connect()
    assert (await idle.response())[0] == 200
    await busy.post(chat_body())
    stream = await door.engine.next_stream()
    await asyncio.sleep(0.3)
    idle.writer.write(PROBE)
    assert (await idle.response())[0] == 200
    assert not stream.closed.is_set()


@pytest.mark.parametrize("closes", [False, True])
async def test_a_client_that_does_not_read_is_cut_off(open_door: Open, closes: bool) -> None:
    door = await open_door(head_seconds=0.2, slow_client_seconds=0.2)
    client = await door.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    end = b"connection: close\r\n" if closes else b""
    request = b"GET /openapi.json HTTP/1.1\r\nhost: t\r\n%b\r\n"
    client.writer.write(request % b"" * 200 + request % end)
    await until(lambda: door.app.state.slots.count_open() == 0)
    assert await door.closed("slow_reader") == 1


async def test_silent_ones_give_way_the_oldest_first_then_idle_ones(
    open_door: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    door = await open_door(connections=4)
    idle = await door.connect(PROBE)
    assert (await idle.response())[0] == 200
    silent = [await door.connect() for _ in range(3)]
    await until(lambda: door.app.state.slots.count_open() == 4)
    assert await door.probe() == 200
    assert await end_of(silent[0]) == b""
    assert not silent[1].reader.at_eof()
    assert (await door.closed("silent"), await door.closed("idle")) == (1, 0)
    for number in (1, 2, 3):
        busy = await door.connect()
        await busy.post(chat_body())
        await door.engine.next_stream(number - 1)
    assert await end_of(idle) == b""
    assert "4 connections are open" in capsys.readouterr().err


async def test_above_the_bound_probes_are_answered_and_the_rest_refused(open_door: Open) -> None:
    door = await open_door(connections=2)
    for number in range(2):
        busy = await door.connect()
        await busy.post(chat_body())
        await door.engine.next_stream(number)
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        client = await door.connect(b"GET %b HTTP/1.1\r\nhost: t\r\n\r\n" % path.encode())
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (200, "close")
    client = await door.connect()
    await client.post(chat_body())
    status, headers, body = await client.response()
    assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
    assert b'"overloaded"' in body
    upgrade = await door.connect(
        b"GET /v1/responses HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert (await upgrade.reader.readline()).split()[1] == b"503"
    assert len(door.engine.opened) == 2


async def test_the_reserve_is_bounded_and_its_silent_ones_give_way(open_door: Open) -> None:
    door = await open_door(connections=1)
    busy = await door.connect()
    await busy.post(chat_body())
    await door.engine.next_stream()
    crowd = [await door.connect() for _ in range(60)]
    assert await door.probe() == 200
    await until(lambda: door.app.state.slots.count_open() <= 17)
    for client in crowd[:30]:
        assert await end_of(client) == b""


async def test_a_websocket_outlives_the_time_of_a_head_and_counts(open_door: Open) -> None:
    door = await open_door(head_seconds=0.1, connections=1)
    client = await door.connect(
        b"GET /v1/responses HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert b"101" in await client.reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.3)
    assert not client.reader.at_eof()
    assert door.app.state.slots.count_open() == 1
    second = await door.connect()
    await second.post(chat_body())
    assert (await second.response())[0] == 503


async def test_a_tls_handshake_has_a_deadline(
    engine_directory: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    files = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    subject = ["-subj", "/CN=localhost", "-days", "1", "-nodes", "-newkey", "rsa:2048"]
    command = ["openssl", "req", "-x509", *subject, "-out", files[0], "-keyout", files[1]]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    app = create_app(Settings(log_level="error"), launch=FakeEngine().launch)
    app.state.engine_directory = engine_directory
    trusting = ssl.create_default_context(cafile=files[0])
    http = Http(head_seconds=0.5, tls_certificate=files[0], tls_key=files[1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with served(app, listener, http):
            silent = RawClient(*await asyncio.open_connection("127.0.0.1", port))
            assert await end_of(silent) == b""
            await silent.leave()
            spoken = RawClient(
                *await asyncio.open_connection(
                    "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
                )
            )
            spoken.writer.write(PROBE)
            assert (await spoken.response())[0] == 200
            await spoken.leave()
