"""Who a request comes from, what it was sent to, and clients of HTTP/1.0."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from serving.protocols.edge.addressing import Addressing
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, chat_body, connected, sse_events

HELLO = 13225
FORWARDED = [(b"x-forwarded-for", b"1.1.1.1, 203.0.113.7"), (b"x-forwarded-proto", b"https")]


async def seen(
    *trusted: str,
    client: tuple[str, int] | None = ("10.0.0.9", 5),
    headers: list[tuple[bytes, bytes]] = FORWARDED,
    prefix: str = "",
    path: str = "/",
) -> Scope:
    """Returns a request as it is inside."""
    found: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope)

    async def unused(*_: Any) -> Any:
        raise AssertionError

    scope = {
        "type": "http",
        "client": client,
        "scheme": "http",
        "headers": headers,
        "path": path,
        "raw_path": path.encode(),
    }
    await Addressing(app, trusted=trusted, prefix=prefix)(scope, unused, unused)
    return found[0]


async def test_nobody_speaks_for_another_unless_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    for trusted in ((), ("10.1.0.0/16",), ("unix",)):
        for address in ("10.0.0.9", "127.0.0.1"):
            scope = await seen(*trusted, client=(address, 5))
            assert (scope["client"], scope["scheme"]) == ((address, 5), "http")


@pytest.mark.parametrize(
    ("trusted", "client"),
    [
        ("10.0.0.9/32", ("10.0.0.9", 5)),
        ("10.0.0.0/8", ("::ffff:10.0.0.9", 5)),  # as a socket that listens on :: sees it
        ("fd00::/8", ("fd00::9", 5)),
        ("unix", None),
    ],
)
async def test_a_trusted_proxy_names_client_and_scheme(
    trusted: str, client: tuple[str, int] | None
) -> None:
    scope = await seen(trusted, client=client)
    assert (scope["client"][0], scope["scheme"]) == ("203.0.113.7", "https")


async def test_the_client_is_the_last_that_no_trusted_proxy_is() -> None:
    chain = [(b"x-forwarded-for", b"9.9.9.9, 203.0.113.7, 10.0.0.3")]
    scope = await seen("10.0.0.0/8", headers=chain)
    assert scope["client"][0] == "203.0.113.7"


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        ("/llm/v1/models", "/v1/models"),
        ("/v1/models", "/v1/models"),
        ("/llm", "/"),
        ("/llmx/v1", "/llmx/v1"),
        ("/llm/llm/v1", "/llm/v1"),
    ],
)
async def test_a_prefix_is_taken_off_once(path: str, inner: str) -> None:
    scope = await seen(prefix="/llm", path=path)
    assert (scope["path"], scope["raw_path"]) == (inner, inner.encode())


async def test_every_address_answers_with_the_prefix_and_without(start: Start) -> None:
    api = await start(http={"root_path": "/llm"})
    for prefix in ("/llm", ""):
        assert (await api.client.get(f"{prefix}/v1/models/{MODEL}")).json()["id"] == MODEL
        assert (await api.client.get(f"{prefix}/readyz")).status_code == 200
        answer = await api.client.post(f"{prefix}/v1/messages", json={})
        assert answer.json()["type"] == "error"  # in the dialect of that address
        async with connect(f"ws://127.0.0.1:{api.port}{prefix}/v1/responses"):
            pass
        document = (await api.client.get(f"{prefix}/openapi.json")).json()
        assert document["servers"] == [{"url": "/llm"}]
    assert (await api.client.get("/other/v1/models")).status_code == 404


@pytest.mark.parametrize(
    "hosts",
    [b"", b"host: a\r\nhost: a\r\n", b"host: a\r\nHost: b\r\n", b"host: a b\r\n", b"host: a/b\r\n"],
)
@pytest.mark.parametrize("upgrade", [b"", b"connection: upgrade\r\nupgrade: websocket\r\n"])
async def test_a_request_of_http_1_1_has_one_host(api: Api, hosts: bytes, upgrade: bytes) -> None:
    handshake = b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n"
    async with connected(api.port) as client:
        client.writer.write(b"GET /v1/responses HTTP/1.1\r\n" + hosts + upgrade)
        client.writer.write((handshake if upgrade else b"") + b"\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("host", ["a", "a:80", "[::1]:80", "[::1]", "127.0.0.1:", "", "a_b.c"])
async def test_a_host_is_a_name_or_an_address_and_a_port(api: Api, host: str) -> None:
    async with connected(api.port) as client:
        client.writer.write(f"GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert (await client.response())[0] == 200


async def test_what_is_wrong_with_the_host_is_said_in_the_api_s_shape(api: Api) -> None:
    async with connected(api.port) as client:
        client.writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        status, headers, body = await client.response()
    assert status == 400
    assert "Host" in json.loads(body)["error"]["message"]
    assert headers["x-request-id"]


async def ask_1_0(
    api: Api, *headers: str, answered: bool = True, **fields: Any
) -> tuple[bytes, bytes]:
    """Returns head and body of an answer to HTTP/1.0, read until the connection ends."""
    payload = json.dumps(chat_body(**fields)).encode()
    lines = ["POST /v1/chat/completions HTTP/1.0", "content-type: application/json", *headers]
    head = "\r\n".join([*lines, f"content-length: {len(payload)}"]).encode()
    async with connected(api.port) as client:
        client.writer.write(head + b"\r\n\r\n" + payload)
        if answered:
            stream = await api.engine.next_stream()
            stream.give([HELLO], finish="stop")
        answer = await asyncio.wait_for(client.reader.read(), 10)
    before, _, after = answer.partition(b"\r\n\r\n")
    return before.lower(), after


async def test_a_client_of_http_1_0_needs_no_host_and_gets_its_answer(api: Api) -> None:
    head, body = await ask_1_0(api)
    assert head.startswith(b"http/1.1 200 ")
    assert b"connection: close" in head
    assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_a_stream_to_http_1_0_ends_with_the_connection(api: Api, connection: str) -> None:
    headers = (f"connection: {connection}", "expect: 100-continue")
    head, body = await ask_1_0(api, *headers, stream=True)
    assert head.startswith(b"http/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert sse_events(body.decode())[-1] == "[DONE]"


async def test_a_refusal_to_http_1_0_is_whole(api: Api) -> None:
    head, body = await ask_1_0(api, answered=False, temperature=9)
    assert head.startswith(b"http/1.1 400 ")
    assert json.loads(body)["error"]["param"] == "temperature"
