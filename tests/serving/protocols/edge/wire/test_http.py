"""Requests as bytes on a socket: each gets an answer, or its connection is closed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Receive, Scope, Send

from serving.protocols.edge.limits import read_body
from serving.protocols.edge.replies import reply_json
from tests.serving.protocols.edge.server import Api, RawClient, connected, listening

SECONDS = 5.0
BODY = b'{"hello": "there"}'
POST = b"POST /echo HTTP/1.1\r\nhost: a\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"8;x=y\r\n" + BODY[:8] + b"\r\na\r\n" + BODY[8:] + b"\r\n0\r\n\r\n"
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what came; `/refuse` without reading its body, `/slow` after a while."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    body = b"" if scope["path"] == "/refuse" else await read_body(receive)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    names = [name.decode() for name, _ in scope["headers"]]
    told = {"method": scope["method"], "path": scope["path"], "body": body.decode(), "names": names}
    await reply_json(send, told)


@pytest.fixture
async def port() -> AsyncGenerator[int]:
    """Where `echo` listens."""
    async with listening(echo, "off") as port:
        yield port


async def answers(client: RawClient, number: int) -> list[tuple[int, dict[str, object]]]:
    """Returns the status and the JSON of the next answers."""
    async with asyncio.timeout(SECONDS):
        return [
            (status, json.loads(body))
            for status, _, body in [await client.response() for _ in range(number)]
        ]


@pytest.mark.parametrize(
    "wish",
    [
        b"",
        H2C,
        b"Connection: upgrade\r\n",
        b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\nUpgrade: h2c\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
        b"Connection: Upgrade\r\nConnection: x\r\nUpgrade: \r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        H2C + b"Expect: 100-continue\r\n",
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("pieces", [1, 1000])
async def test_a_request_is_answered_whatever_it_wishes_besides(
    port: int, wish: bytes, framing: str, pieces: int
) -> None:
    if framing == "length":
        request = POST + wish + LENGTH + b"\r\n" + BODY
    else:
        request = POST + wish + b"transfer-encoding: chunked\r\n\r\n" + CHUNKED
    following = b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n"
    async with connected(port) as client:
        data = request + following
        size = max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            client.writer.write(data[start : start + size])
            if pieces > 1:
                await asyncio.sleep(0)
        if b"100-continue" in wish:
            assert b" 100 " in await client.reader.readuntil(b"\r\n\r\n")
        (first, told), (second, after) = await answers(client, 2)
    assert (first, second) == (200, 200)
    assert (told["method"], told["path"], told["body"]) == ("POST", "/echo", BODY.decode())
    assert (after["path"], after["body"]) == ("/second", "")


async def test_what_an_ignored_upgrade_said_is_not_told_and_the_rest_is(port: int) -> None:
    async with connected(port) as client:
        client.writer.write(POST + b"x-first: 1\r\n" + H2C + b"x-last: 2\r\n" + LENGTH)
        client.writer.write(b"\r\n" + BODY)
        ((_, told),) = await answers(client, 1)
    assert told["names"] == ["host", "x-first", "connection", "x-last", "content-length"]


async def test_a_websocket_is_still_one(port: int) -> None:
    async with connected(port) as client:
        client.writer.write(
            b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1", 405),
        (b"CONNECT /echo HTTP/1.1", 405),
        (b"PRI * HTTP/2.0", 400),
        (b"FETCH / HTTP/1.1", 400),
        (b"GET http://a:99999/ HTTP/1.1", 400),
        (b"GET nothing HTTP/1.1", 404),
        *((b"GET /v1/%cmodels HTTP/1.1" % byte, 404) for byte in (0, 1, 9, 11, 12, 27, 31, 127)),
        (b"GET /v1/models\xff HTTP/1.1", 404),
    ],
)
async def test_what_no_application_can_answer_is_refused_in_the_api_s_shape(
    port: int, request_line: bytes, status: int
) -> None:
    async with connected(port) as client:
        client.writer.write(request_line + b"\r\nhost: a\r\n\r\n")
        got, headers, body = await asyncio.wait_for(client.response(), SECONDS)
        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""
    assert got == status
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert headers["x-request-id"]


async def test_nonsense_behind_a_request_does_not_take_its_answer(port: int) -> None:
    async with connected(port) as client:
        client.writer.write(b"POST /slow HTTP/1.1\r\nhost: a\r\n" + LENGTH + b"\r\n" + BODY)
        client.writer.write(b"\x00nonsense\r\n\r\n")
        ((status, told),) = await answers(client, 1)
        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""
    assert (status, told["body"]) == (200, BODY.decode())


async def test_a_body_that_was_not_asked_for_is_not_waited_for(port: int) -> None:
    async with connected(port) as client:
        client.writer.write(b"POST /refuse HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n")
        client.writer.write(LENGTH + b"\r\n")
        ((status, _),) = await answers(client, 1)
        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""
    assert status == 200


METHODS = (
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH CONNECT QUERY PURGE MKCOL PROPFIND LINK SEARCH "
    b"NOTIFY SUBSCRIBE SOURCE PRI DESCRIBE FOO get"
).split()
TARGETS = (
    b"/ /echo /slow /refuse /v1/models /v1/responses /v1/tokenize /livez "
    b"* a:443 http://a/x http://a //x /%00 /%0a /?x=%0a ?x # /a#b \xff /\t"
).split(b" ")
FIELDS = (
    b"Connection: upgrade",
    b"Connection: close",
    b"Connection: keep-alive, , upgrade,",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Upgrade: TLS/1.0, HTTP/2.0",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    b"HTTP2-Settings: AAMAAABk",
    b"Expect: 100-continue",
    b"Expect: something",
    b"Trailer: x",
    b"TE: trailers",
    b"Proxy-Connection: upgrade",
    b"Keep-Alive: timeout=-1",
    b"Content-Type: ",
    b"X: \xff\xfe",
    b"Max-Forwards: 0",
)


async def test_no_request_of_any_method_or_header_waits(port: int, api: Api) -> None:
    for one in (port, api.port):
        await ask_anything(one)


async def ask_anything(port: int) -> None:
    """Sends requests of every kind; each has an answer, or its connection an end."""
    chosen = random.Random(7)

    async def ask(number: int) -> tuple[bytes, bytes]:
        fields = chosen.sample(FIELDS, chosen.randrange(6))
        framing, body = chosen.choice(
            [(b"", b""), (LENGTH, BODY), (b"Transfer-Encoding: chunked\r\n", CHUNKED)]
        )
        method, target = chosen.choice(METHODS), chosen.choice(TARGETS)
        head = b"%s %s HTTP/%s\r\nHost: a\r\n" % (method, target, chosen.choice([b"1.1", b"1.0"]))
        request = head + b"".join(field + b"\r\n" for field in fields) + framing + b"\r\n" + body
        async with connected(port) as client:
            client.writer.write(request)
            async with asyncio.timeout(SECONDS):
                return request, await client.reader.read(16)

    for _ in range(20):
        for request, answer in await asyncio.gather(*(ask(number) for number in range(20))):
            assert answer == b"" or answer.startswith(b"HTTP/1.1 "), request
