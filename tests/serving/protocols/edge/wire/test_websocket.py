"""Floods of frames on one WebSocket, beside clients that behave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
import websockets
from starlette.types import Receive, Scope, Send

from serving.protocols.edge.replies import reply_json
from serving.protocols.edge.wire.websocket import IDLE_FRAMES
from tests.serving.protocols.edge.server import RawClient, connected, listening

SECONDS = 10.0
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
)
PING = b"\x89\x80" + bytes(4)
PONG = b"\x8a\x80" + bytes(4)
EMPTY = b"\x81\x80" + bytes(4)
BEGIN = b"\x01\x81" + bytes(4) + b"x"
FRAGMENT = b"\x00\x81" + bytes(4) + b"x"
NOTHING = b"\x00\x80" + bytes(4)
MESSAGE = b"\x81\x82" + bytes(4) + b"{}"


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells the number of each message; over HTTP, that it is there."""
    if scope["type"] == "http":
        await reply_json(send, {})
        return
    await receive()
    await send({"type": "websocket.accept"})
    number = 0
    while (message := await receive())["type"] == "websocket.receive":
        number += 1
        text = f"{number} {len(message.get('text') or message.get('bytes') or '')}"
        await send({"type": "websocket.send", "text": text})


@pytest.fixture
async def port() -> AsyncGenerator[int]:
    """Where `count` listens."""
    async with listening(count, "off") as port:
        yield port


async def opened(client: RawClient) -> str:
    """Makes the connection a WebSocket and returns the head of the answer."""
    client.writer.write(HANDSHAKE)
    return (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()


async def longest_wait(port: int, rounds: int) -> float:
    """Returns the longest that a client beside waited for its answer."""
    longest = 0.0
    async with connected(port) as client:
        for _ in range(rounds):
            began = time.perf_counter()
            client.writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(client.response(), SECONDS)
            longest = max(longest, time.perf_counter() - began)
    return longest


@pytest.mark.parametrize(
    "flood",
    [
        PING * 40_000,
        PONG * 40_000,
        EMPTY * 40_000,
        BEGIN + FRAGMENT * 40_000,
        BEGIN + NOTHING * 40_000,
    ],
    ids=["pings", "pongs", "empty messages", "small fragments", "empty fragments"],
)
async def test_a_flood_of_frames_without_content_is_left_with_1008(port: int, flood: bytes) -> None:
    told = b""
    with suppress(ConnectionError):  # what is still on its way when it is closed resets it
        async with connected(port) as client:
            await opened(client)

            async def send() -> None:
                with suppress(ConnectionError):
                    while True:
                        client.writer.write(flood)
                        await client.writer.drain()

            sending = asyncio.create_task(send())
            try:
                async with asyncio.timeout(SECONDS):
                    while piece := await client.reader.read(65536):
                        told += piece
            finally:
                sending.cancel()
    reason = b"\x03\xf0too many frames without content"  # 1008
    assert told.endswith(b"\x88" + bytes([len(reason)]) + reason)
    assert told.count(b"\x8a\x00") <= IDLE_FRAMES + 1
    await asyncio.wait_for(longest_wait(port, 1), SECONDS)


async def test_others_are_answered_while_a_flood_is_read(port: int) -> None:
    async with connected(port) as client:
        await opened(client)
        client.writer.write(MESSAGE * 100_000)
        began = time.perf_counter()
        waiting = asyncio.create_task(longest_wait(port, 20))
        read = 0
        while read < 200_000:
            read += len(await client.reader.read(65536))
        whole = time.perf_counter() - began
        assert await waiting < whole / 4


async def test_what_a_client_may_do_it_may_do_for_long(port: int) -> None:
    async with await websockets.connect(f"ws://127.0.0.1:{port}") as connection:
        for number in range(1, 2 * IDLE_FRAMES):
            await connection.send("x" * (number % 7 + 1))
            assert await connection.recv() == f"{number} {number % 7 + 1}"
        for _ in range(20):
            await (await connection.ping())  # and its answer
        pieces = ["y" * 600] * 2 * IDLE_FRAMES
        await connection.send(iter(pieces))
        assert await connection.recv() == f"{2 * IDLE_FRAMES} {600 * len(pieces)}"


async def test_messages_that_come_together_are_read_in_order(port: int) -> None:
    async with await websockets.connect(f"ws://127.0.0.1:{port}") as connection:
        for length in range(1, 300):
            await connection.send("z" * length)
        told = [await connection.recv() for _ in range(1, 300)]
        assert told == [f"{length} {length}" for length in range(1, 300)]
        await connection.close()
        assert connection.close_code == 1000


async def test_messages_are_not_compressed(port: int) -> None:
    async with connected(port) as client:
        assert "sec-websocket-extensions" not in await opened(client)
