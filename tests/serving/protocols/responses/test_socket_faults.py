"""WebSockets that fail, are refused, or end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import websockets
from openai.resources.responses.responses import AsyncResponsesConnection

from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until
from tests.serving.protocols.responses.sockets import answered, raw, tokens, turn


async def test_failures_are_told_and_the_connection_goes_on(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    await connection.response.create(model=MODEL, input="Hello")
    stream = await api.engine.next_stream(0)
    stream.fail(ServingError(ErrorKind.OUT_OF_MEMORY, "No memory.", retry_after_seconds=2.5))
    (error,) = await answered(connection)
    assert (error.status, error.error.code) == (503, "engine_out_of_memory")
    assert error.error.headers == {"retry-after": "3"}
    await connection.response.create(model=MODEL, input="Hello", stream_id="a")
    stream = await api.engine.next_stream(1)
    stream.give(tokens(vocabulary, "Hello you")[:-2])
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    failed = (await answered(connection))[-1]
    assert (failed.type, failed.stream_id) == ("response.failed", "a")
    assert failed.response.error.message == "The engine stopped."
    events, _ = await turn(api, connection, vocabulary, input="Again")
    assert events[-1].type == "response.completed"


async def test_a_running_response_is_not_steered(connection: AsyncResponsesConnection) -> None:
    await connection.response.steer(input="Wait!", previous_response_id="resp_1")
    refused: Any = await connection.recv()
    assert refused.type == "response.steer.failed"
    assert refused.error.code == "steering_not_supported"
    assert refused.steer.input == "Wait!"


@pytest.mark.parametrize(
    ("message", "status", "param"),
    [
        ("no JSON", 400, None),
        ("[]", 400, None),
        (b"\xff\xfe", 400, None),
        ("{}", 400, "type"),
        ({"type": "response.go"}, 400, "type"),
        ({"type": "response.create"}, 400, "model"),
        ({"stream_id": 1}, 400, "stream_id"),
        ({"stream_id": "x" * 65}, 400, "stream_id"),
        ({"stream": False}, 400, "stream"),
        ({"background": True}, 400, "background"),
        ({"generate": "yes"}, 400, "generate"),
        ({"generate": 0}, 400, "generate"),
        ({"temperature": 3}, 400, "temperature"),
        ({"model": "gpt-5"}, 404, "model"),
        ({"input": "x" * 70000}, 400, "input"),
        ({"previous_response_id": "resp_no"}, 400, "previous_response_id"),
        ({"input": "x" * 5_000_000}, 413, None),
    ],
)
async def test_what_is_wrong_with_a_message_is_told(
    api: Api, vocabulary: Vocabulary, message: Any, status: int, param: str | None
) -> None:
    if isinstance(message, dict):
        created = {"type": "response.create", "model": MODEL, "input": "Hi", **message}
        message = json.dumps(message if "type" in message else created)
    async with await raw(api) as connection:
        await connection.send(message)
        told = json.loads(await connection.recv())
        assert told["type"] == "error"
        assert (told["status"], told["error"]["param"]) == (status, param)
        # Nothing else has become of it.
        await connection.send('{"type": "response.create", "model": 1}')
        assert json.loads(await connection.recv())["error"]["param"] == "model"
    assert not api.engine.opened


@pytest.mark.parametrize(
    ("limits", "text"),
    [({"socket_requests": 2}, "Hi"), ({"body_bytes": 1000}, "Hi" * 300)],
)
async def test_too_much_at_once_closes_the_connection(
    start: Start, store: dict[str, Any], limits: dict[str, int], text: str
) -> None:
    api = await start(store=store, limits=limits)
    async with await raw(api) as connection:
        for _ in range(3):
            body = {"type": "response.create", "model": MODEL, "input": text}
            await connection.send(json.dumps(body))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    await until(lambda: api.service.backend().pipeline.admission.running == 0)


async def test_a_connection_has_an_end_and_what_runs_then_is_finished(
    start: Start, store: dict[str, Any], vocabulary: Vocabulary
) -> None:
    api = await start(store=store, deadlines={"socket_seconds": 0.2})
    async with await raw(api) as idle, await raw(api) as busy:
        body = json.dumps({"type": "response.create", "model": MODEL, "input": "Hi"})
        await busy.send(body)
        stream = await api.engine.next_stream(0)
        told = json.loads(await idle.recv())
        assert told["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(websockets.ConnectionClosedOK):
            await idle.recv()
        await busy.send(body)
        stream.give(tokens(vocabulary, "Still here"), finish="stop")
        events = [json.loads(event) async for event in busy]
    kinds = [event["type"] for event in events]
    assert kinds[-3:] == ["response.completed", "error", "error"]
    assert events[-2]["error"]["code"] == "websocket_connection_limit_reached"
    assert len(api.engine.opened) == 1


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"additional_headers": {"x-request-timeout-ms": "soon"}}, 400),
        ({"additional_headers": {"x-large": "x" * 40000}}, 431),
    ],
)
async def test_a_handshake_is_refused_as_a_request_is(
    api: Api, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await raw(api, **options)
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["error"]["message"]
    assert response.headers["x-request-id"]


async def test_a_page_of_the_service_may_connect_and_no_more_than_fit(
    start: Start, store: dict[str, Any]
) -> None:
    api = await start(store=store, limits={"sockets": 1})
    async with await raw(api, origin=f"http://127.0.0.1:{api.port}") as connection:
        assert (await api.metrics())["llmserve_websockets"] == 1
        assert connection.response is not None
        assert connection.response.headers["x-request-id"]
        with pytest.raises(websockets.InvalidStatus) as refused:
            await raw(api)
        assert refused.value.response.status_code == 503
    for _ in range(1000):
        try:
            again = await raw(api)
        except websockets.InvalidStatus:
            continue
        await again.close()
        break
    for _ in range(1000):
        if (await api.metrics())["llmserve_websockets"] == 0:
            return
    raise TimeoutError("the place of a connection that has ended is not free")


async def test_other_addresses_have_no_websocket(api: Api) -> None:
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{api.port}/v1/chat/completions")


async def test_a_client_that_takes_nothing_is_left(
    start: Start, store: dict[str, Any], vocabulary: Vocabulary
) -> None:
    api = await start(store=store, deadlines={"slow_client_seconds": 0.2})
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1024)
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    body = json.dumps({"type": "response.create", "model": MODEL, "input": "Hi"}).encode()
    writer.write(b"\x81" + bytes([0x80 | len(body)]) + bytes(4) + body)
    stream = await api.engine.next_stream(0)
    words = vocabulary.encode(" word" * 2000)
    for _ in range(2000):
        if stream.closed.is_set():
            break
        stream.give(words)
        await asyncio.sleep(0.005)
    assert stream.closed.is_set()
    writer.close()
