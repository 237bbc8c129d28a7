"""The one line of each request: who asked what, what came of it, and how much was said."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from serving.app import create_app
from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Settings
from serving.telemetry.logs import make_logger
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, chat_body, connected, listening
from tests.serving.protocols.responses.sockets import raw

Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    """Returns a function that returns the lines of requests, each once."""
    log = io.StringIO()
    monkeypatch.setattr("serving.app.make_logger", lambda level: make_logger(level, log))

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        log.seek(0)
        log.truncate()
        return [line for line in lines if line["event"] in ("request", "background")]

    return read


@pytest.fixture
async def api(start: Start, tmp_path: Path, logged: Logged) -> Api:
    """An API that logs where `logged` reads."""
    return await start(log_level="info", store={"path": str(tmp_path / "store")})


async def line_of(logged: Logged) -> dict[str, Any]:
    """Returns the one line that there is now, or soon."""
    for _ in range(1000):
        if lines := logged():
            (line,) = lines
            return line
        await asyncio.sleep(0.005)
    raise TimeoutError("no line")


async def answer(api: Api, vocabulary: Vocabulary) -> None:
    """Makes the engine answer everything."""
    number = 0
    while True:
        stream = await api.engine.next_stream(number)
        stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
        number += 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "route"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, None),
        ("/v1/completions", {"prompt": "Hi"}, "completions"),
        ("/v1/completions", {"prompt": ["Hi", "there"]}, "completions"),
        ("/v1/responses", {"input": "Hi"}, "responses"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}, None),
    ],
)
async def test_a_request_that_generates(
    api: Api,
    logged: Logged,
    vocabulary: Vocabulary,
    path: str,
    fields: dict[str, Any],
    route: str | None,
    stream: bool,
) -> None:
    answering = asyncio.create_task(answer(api, vocabulary))
    body = json.dumps({"model": MODEL, **fields, "stream": stream}).encode()
    response = await api.client.post(path, content=body)
    answering.cancel()
    assert response.status_code == 200
    line = await line_of(logged)
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["client"], line["method"], line["status"]) == ("127.0.0.1", "POST", 200)
    assert line["bytes_received"] == len(body)
    assert line["bytes_sent"] == len(response.content)
    assert (line["outcome"], line["code"], line["lane"]) == ("ok", "", "p1")
    prompts = fields.get("prompt")
    assert line["finish_reasons"] == ["stop"] * (2 if isinstance(prompts, list) else 1)
    assert line["completion_tokens"] > 0
    assert line["total_seconds"] >= line["first_token_seconds"] >= line["queue_seconds"]
    assert route in (None, line["route"])


@pytest.mark.parametrize(
    ("method", "path", "status", "route", "code"),
    [
        ("GET", "/v1/models", 200, "models", ""),
        ("GET", "/v1/responses/resp_secret", 404, "responses.stored", "not_found"),
        ("DELETE", "/v1/conversations/conv_secret", 404, "conversations", "not_found"),
        ("POST", "/v1/chat/completions", 400, "chat.completions", "invalid_value"),
        ("PUT", "/v1/models", 405, "unmatched", "method_not_allowed"),
        ("GET", "/secret%0a?secret=1", 404, "unmatched", "not_found"),
    ],
)
async def test_a_request_that_does_not(
    api: Api, logged: Logged, method: str, path: str, status: int, route: str, code: str
) -> None:
    response = await api.client.request(method, path)
    assert response.status_code == status
    line = await line_of(logged)
    assert (line["method"], line["status"], line["route"]) == (method, status, route)
    assert (line["outcome"], line["code"]) == ("error" if code else "ok", code)
    assert line["bytes_sent"] == len(response.content)
    assert line["client"] == "127.0.0.1"
    assert "secret" not in json.dumps(line)


async def test_a_client_that_leaves(api: Api, logged: Logged) -> None:
    async with connected(api.port) as client:
        await client.post(chat_body())
        await api.engine.next_stream()
    line = await line_of(logged)
    assert (line["outcome"], line["code"]) == ("aborted", "client_closed_request")
    assert line["abort_phase"] == "prefill"
    assert (line["client"], line["method"]) == ("127.0.0.1", "POST")


async def test_a_stream_that_fails(api: Api, logged: Logged, vocabulary: Vocabulary) -> None:
    asked = api.ask(stream=True)
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content="Hello you"), vocabulary)[:-2])
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    response = await asked
    line = await line_of(logged)
    assert (line["status"], line["outcome"], line["code"]) == (200, "error", "engine_unavailable")
    assert line["bytes_sent"] == len(response.content)


async def test_a_response_in_the_background_has_its_own(
    api: Api, logged: Logged, vocabulary: Vocabulary
) -> None:
    body = {"model": MODEL, "input": "Hi", "background": True}
    response = await api.client.post("/v1/responses", json=body)
    begun = await line_of(logged)
    assert (begun["event"], begun["status"], begun["outcome"]) == ("request", 200, "ok")
    assert begun["bytes_sent"] == len(response.content)
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
    ended = await line_of(logged)
    assert (ended["event"], ended["outcome"], ended["status"]) == ("background", "ok", None)
    assert ended["request_id"] == begun["request_id"]
    assert ended["completion_tokens"] > 0
    counted = 'llmserve_requests_total{code="",lane="p1",outcome="ok",route="responses"}'
    assert (await api.metrics())[counted] == 1


async def test_a_websocket_and_each_of_its_turns(
    api: Api, logged: Logged, vocabulary: Vocabulary
) -> None:
    message = json.dumps({"type": "response.create", "model": MODEL, "input": "Hi"})
    async with await raw(api) as connection:
        await connection.send(message)
        stream = await api.engine.next_stream()
        stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
        size = 0
        while True:
            event = await connection.recv()
            size += len(event)
            if json.loads(event)["type"] == "response.completed":
                break
        turn = await line_of(logged)
        await connection.send("{}")
        size += len(await connection.recv())
        failed = await line_of(logged)
    whole = await line_of(logged)
    assert (turn["route"], turn["method"], turn["status"]) == ("responses", None, None)
    assert (turn["client"], turn["outcome"]) == ("127.0.0.1", "ok")
    assert turn["bytes_received"] == len(message)
    assert turn["bytes_sent"] > 0
    assert (failed["outcome"], failed["code"]) == ("error", "invalid_value")
    assert (whole["route"], whole["method"], whole["status"]) == ("responses.socket", "GET", 101)
    assert (whole["bytes_received"], whole["bytes_sent"]) == (len(message) + 2, size)
    assert whole["client"] == "127.0.0.1"


async def test_a_websocket_that_is_refused(api: Api, logged: Logged) -> None:
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await raw(api, additional_headers={"x-request-timeout-ms": "soon"})
    line = await line_of(logged)
    assert (line["status"], line["outcome"], line["code"]) == (400, "error", "invalid_value")
    assert line["bytes_sent"] == len(refusal.value.response.body or b"")


async def test_a_client_on_a_unix_socket_has_no_address(logged: Logged, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    app = create_app(Settings(log_level="info"), launch=FakeEngine().launch)
    async with listening(app, "off", path=path):
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            assert (await client.get("/v1/models")).status_code == 200
    line = await line_of(logged)
    assert (line["client"], line["status"]) == (None, 200)
