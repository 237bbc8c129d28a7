"""The load client counts what a server sends, however it is cut."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.http_load import StreamResult, chat_request, load
from benchmarks.serving import check

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"a":1}\n\n', b'data: {"completion_tokens":2,}\n\n', b"data: [DONE]\n\n"]


async def serve_in_pieces(size: int) -> tuple[asyncio.Server, int]:
    """Returns a server that answers every request with the events, `size` bytes at a time."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
    reply = HEAD + body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(reply), size):
            writer.write(reply[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_events_are_counted_whatever_the_pieces(size: int) -> None:
    server, port = await serve_in_pieces(size)
    async with server:
        results = await load(port, [chat_request(port, {"stream": True})] * 3)
    assert [result.events for result in results] == [3, 3, 3]
    check(results, 2)


@pytest.mark.parametrize(
    "result",
    [
        StreamResult(status=b"HTTP/1.1 503 no", tail=b'"completion_tokens":2,[DONE]'),
        StreamResult(status=b"HTTP/1.1 200 OK", tail=b'"completion_tokens":2,'),
        StreamResult(status=b"HTTP/1.1 200 OK", tail=b'"completion_tokens":1,[DONE]'),
    ],
)
def test_a_stream_that_is_not_whole_is_no_measurement(result: StreamResult) -> None:
    with pytest.raises(RuntimeError):
        check([result], 2)
