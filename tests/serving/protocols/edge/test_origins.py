"""Requests that pages send from browsers, and those of other clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
import websockets
from starlette.types import Receive, Scope, Send
from websockets.typing import Origin

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.origins import Origins
from serving.protocols.edge.replies import reply_json
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api, connected
from tests.serving.protocols.responses.sockets import raw

LOOPBACK, LAN = "127.0.0.1", "192.168.1.5"
UNSAFE = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses/compact"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("DELETE", "/v1/responses/resp_1"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/tokenize"),
    ("POST", "/v1/conversations"),
    ("DELETE", "/v1/conversations/conv_1"),
    ("PUT", "/v1/models"),
    ("PATCH", "/nothing"),
]


async def refused(
    method: str | None, server: tuple[str, int] | None, headers: dict[str, str], **settings: Any
) -> str | None:
    """Returns the header that a request is refused for, or None; without a method a WebSocket."""
    kind = {"type": "websocket"} if method is None else {"type": "http", "method": method}
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    guard = Origins(app, **{"allowed_origins": (), "allowed_hosts": (), **settings})
    try:
        await guard({**kind, "path": "/", "server": server, "headers": fields}, nothing, nothing)
    except ServingError as error:
        return error.param if error.kind is ErrorKind.PERMISSION_DENIED else error.message
    assert reached
    return None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY", None])
@pytest.mark.parametrize("server", [(LOOPBACK, 3000), (LAN, 3000), None])
@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"host": "localhost:3000"}, None),
        ({"host": "127.0.0.1:3000"}, None),
        ({"host": "[::1]:3000"}, None),
        ({"host": "host.docker.internal:3000"}, None),
        ({"host": "gpt-oss"}, None),
        ({}, None),
        ({"host": "localhost:3000", "origin": "http://localhost:3000"}, None),
        ({"host": "LocalHost:3000", "origin": "http://localhost:3000"}, None),
        ({"host": "[::1]:3000", "origin": "http://[::1]:3000"}, None),
        ({"host": "localhost:443", "origin": "https://localhost"}, None),
        ({"host": "localhost", "origin": "http://localhost:80"}, None),
        ({"host": "localhost:3000", "sec-fetch-site": "none"}, None),
        ({"host": "localhost:3000", "sec-fetch-site": "same-origin"}, None),
        ({"host": "api.example.com", "x-forwarded-for": "9.9.9.9"}, None),
        ({"host": "api.example.com", "forwarded": "for=9.9.9.9"}, None),
        ({"host": "localhost:3000", "origin": "https://evil.example"}, "origin"),
        ({"host": "localhost:3000", "origin": "http://localhost:3001"}, "origin"),
        ({"host": "localhost:3000", "origin": "http://127.0.0.1:3000"}, "origin"),
        ({"host": "localhost:3000", "origin": "http://localhost"}, "origin"),
        ({"host": "localhost:3000", "origin": "null"}, "origin"),
        ({"host": "localhost:3000", "origin": ""}, "origin"),
        ({"host": "localhost:3000", "origin": "http://[bad:3000"}, "origin"),
        ({"host": "", "origin": "null"}, "origin"),
        ({"origin": "http://localhost:3000"}, "origin"),
        ({"host": "localhost:3000", "sec-fetch-site": "cross-site"}, "origin"),
        ({"host": "localhost:3000", "sec-fetch-site": "same-site"}, "origin"),
    ],
)
async def test_what_could_change_something_is_for_pages_of_its_own_origin(
    method: str | None, server: tuple[str, int] | None, headers: dict[str, str], param: str | None
) -> None:
    assert await refused(method, server, headers) == param


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE", None])
@pytest.mark.parametrize("host", ["evil.example:3000", "EVIL.example", "localhost.evil.example."])
@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1"])
async def test_a_loopback_address_has_no_name_of_a_stranger_s(
    method: str | None, host: str, server: str
) -> None:
    assert await refused(method, (server, 3000), {"host": host}) == "host"
    page = {"host": host, "origin": f"http://{host}".lower()}
    assert await refused(method, (server, 3000), page) == "host"
    pretended = {**page, "x-forwarded-for": "9.9.9.9", "sec-fetch-site": "same-origin"}
    assert await refused(method, (server, 3000), pretended) == "host"


async def test_other_addresses_have_any_name() -> None:
    for server in ((LAN, 3000), ("10.0.0.1", 80), ("2001:db8::1", 3000), None):
        assert await refused("POST", server, {"host": "api.example.com"}) is None
        own = {"host": "api.example.com", "origin": "https://api.example.com"}
        assert await refused("POST", server, own) is None


async def test_reading_from_another_origin_is_left_to_browsers() -> None:
    """They do not show the answer to the page, as nothing allows it."""
    headers = {"host": "localhost:3000", "origin": "https://evil.example"}
    assert await refused("GET", (LOOPBACK, 3000), headers) is None


async def test_what_the_settings_allow() -> None:
    origins = {"allowed_origins": ("https://Chat.example.com", "app://obsidian.md")}
    for origin in ("https://chat.example.com", "app://obsidian.md"):
        headers = {"host": "localhost:3000", "origin": origin, "sec-fetch-site": "cross-site"}
        for method in ("POST", None):
            assert await refused(method, (LOOPBACK, 3000), headers, **origins) is None
    for origin in ("http://chat.example.com", "https://chat.example.com:8443", "app://x"):
        headers = {"host": "localhost:3000", "origin": origin}
        assert await refused("POST", (LOOPBACK, 3000), headers, **origins) == "origin"
    hosts = {"allowed_hosts": ("api.Example.com",)}
    for host, param in (("api.example.com:80", None), ("x.api.example.com", "host")):
        assert await refused("POST", (LOOPBACK, 3000), {"host": host}, **hosts) == param


async def test_two_origins_are_no_origin() -> None:
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)
        await reply_json(send, {})

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    headers = [(b"host", b"a"), (b"origin", b"http://a"), (b"origin", b"http://b")]
    scope = {"type": "http", "method": "POST", "server": (LAN, 80), "headers": headers}
    with pytest.raises(ServingError):
        await Origins(app, allowed_origins=(), allowed_hosts=())(scope, nothing, nothing)
    assert not reached


@pytest.mark.parametrize(("method", "path"), UNSAFE)
async def test_every_address_refuses_what_a_browser_lets_any_page_send(
    api: Api, method: str, path: str
) -> None:
    async with connected(api.port) as client:
        for kind in (b"", b"content-type: text/plain\r\n"):
            client.writer.write(
                f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{api.port}\r\n".encode()
                + b"origin: https://evil.example\r\ncontent-length: 2\r\n"
                + kind
                + b"\r\n{}"
            )
            status, headers, body = await client.response()
            assert status == 403
            assert headers["x-request-id"]
            error = json.loads(body)["error"]
            anthropic = path.startswith("/v1/messages")
            assert error["type"] == "permission_error"
            assert anthropic or error["param"] == "origin"


async def test_nothing_is_generated_for_a_page_whose_name_was_rebound(api: Api) -> None:
    host = "evil.example"
    for path in ("/v1/chat/completions", "/v1/models"):
        response = await api.client.post(
            path, json={}, headers={"host": host, "origin": f"http://{host}"}
        )
        assert response.status_code == 403
    for path, status in (("/v1/models", 403), ("/metrics", 403), ("/livez", 200), ("/readyz", 200)):
        assert (await api.client.get(path, headers={"host": host})).status_code == status
    url, origin = f"ws://{host}:{api.port}/v1/responses", Origin(f"http://{host}:{api.port}")
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await websockets.connect(url, host="127.0.0.1", origin=origin)
    assert refusal.value.response.status_code == 403
    assert not api.engine.opened


async def test_a_page_that_is_allowed_is_served(start: Start) -> None:
    api = await start(http={"allowed_origins": ["https://chat.example.com"]})
    headers = {"origin": "https://chat.example.com"}
    assert (await api.client.post("/v1/chat/completions", headers=headers)).status_code == 400
    async with await raw(api, origin="https://chat.example.com") as connection:
        assert connection.response is not None
