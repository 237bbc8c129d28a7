"""The WebSocket mode through the official client, and what is wrong with a client on raw frames."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
import websockets
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.asyncio.client import ClientConnection

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.api.conftest import Start
from tests.serving.api.responses.service import WEATHER
from tests.serving.api.server import MODEL, Api, until
from tests.serving.fake_engine import FakeStream

LAST = ("response.completed", "response.incomplete", "response.failed", "error")


@pytest.fixture
def store(tmp_path: Path) -> dict[str, Any]:
    """The setting of where responses are."""
    return {"path": str(tmp_path / "responses.sqlite3")}


@pytest.fixture
async def api(start: Start, store: dict[str, Any]) -> Api:
    """A ready API with a store of its own."""
    return await start(store=store)


@pytest.fixture
async def connection(api: Api) -> AsyncGenerator[AsyncResponsesConnection]:
    """A connection of the official client."""
    async with (
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none") as client,
        client.responses.connect() as connection,
    ):
        yield connection


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    return render_completion(Assistant(reasoning="Hm.", content=text), vocabulary)


async def answered(connection: AsyncResponsesConnection) -> list[Any]:
    """Returns the events of a response to its last."""
    events: list[Any] = []
    while not events or events[-1].type not in LAST:
        events.append(await connection.recv())
    return events


async def turn(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary, **fields: Any
) -> tuple[list[Any], FakeStream]:
    number = len(api.engine.opened)
    await connection.response.create(model=MODEL, **fields)
    stream = await api.engine.next_stream(number)
    stream.give(tokens(vocabulary, f"Answer {number}"), finish="stop")
    return await answered(connection), stream


async def test_turns_follow_one_another_without_a_store(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    first, _ = await turn(api, connection, vocabulary, input="One", store=False)
    assert first[0].type == "response.created"
    assert [event.sequence_number for event in first] == list(range(len(first)))
    answer = first[-1].response
    assert answer.output_text == "Answer 0"
    second, stream = await turn(
        api, connection, vocabulary, input="Two", store=False, previous_response_id=answer.id
    )
    third, last = await turn(
        api,
        connection,
        vocabulary,
        input="Three",
        store=False,
        previous_response_id=second[-1].response.id,
        tools=[WEATHER],
    )
    assert third[-1].type == "response.completed"
    prompt = vocabulary.decode(last.prompt)
    for text in ("One", "Answer 0", "Two", "Answer 1", "Three"):
        assert text in prompt
    assert "Answer 1" not in vocabulary.decode(stream.prompt)
    assert (await api.client.get(f"/v1/responses/{answer.id}")).status_code == 404
    metrics = await api.metrics()
    (turns,) = (
        value
        for name, value in metrics.items()
        if name.startswith("llmserve_requests_total")
        and 'outcome="ok"' in name
        and 'route="responses"' in name
    )
    assert turns == 3


async def test_what_is_stored_goes_on_over_http_and_back(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    first, _ = await turn(api, connection, vocabulary, input="One")
    name = first[-1].response.id
    assert (await api.client.get(f"/v1/responses/{name}")).json()["status"] == "completed"
    asking = asyncio.create_task(
        api.client.post(
            "/v1/responses", json={"model": MODEL, "input": "Two", "previous_response_id": name}
        )
    )
    stream = await api.engine.next_stream(1)
    stream.give(tokens(vocabulary, "Over HTTP"), finish="stop")
    second = (await asking).json()
    third, stream = await turn(
        api, connection, vocabulary, input="Three", previous_response_id=second["id"]
    )
    assert third[-1].type == "response.completed"
    assert "Over HTTP" in vocabulary.decode(stream.prompt)


async def test_a_store_that_is_off_is_not_needed(start: Start, vocabulary: Vocabulary) -> None:
    api = await start(store={"enabled": False})
    async with (
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none") as client,
        client.responses.connect() as connection,
    ):
        first, _ = await turn(api, connection, vocabulary, input="One")
        name = first[-1].response.id
        second, _ = await turn(api, connection, vocabulary, input="Two", previous_response_id=name)
        assert second[-1].type == "response.completed"
        await connection.response.create(model=MODEL, input="x", previous_response_id="resp_no")
        (error,) = await answered(connection)
        assert (error.status, error.error.code) == (400, "previous_response_not_found")


async def test_state_is_prepared_without_an_answer(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    await connection.response.create(model=MODEL, input="Context", generate=False, store=False)
    stream = await api.engine.next_stream(0)
    assert stream.samplings[0].max_tokens == 1
    stream.give(vocabulary.encode("x"), finish="length")
    warm = await answered(connection)
    assert [event.type for event in warm] == [
        *("response.created", "response.in_progress", "response.completed")
    ]
    response = warm[-1].response
    assert response.output == []
    assert response.usage.input_tokens == len(stream.prompt)
    assert response.usage.output_tokens == 0
    events, stream = await turn(
        api,
        connection,
        vocabulary,
        input="Go",
        store=False,
        previous_response_id=response.id,
    )
    assert events[-1].type == "response.completed"
    assert "Context" in vocabulary.decode(stream.prompt)


async def test_lanes_run_side_by_side_and_requests_of_one_in_order(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    for stream_id, text in (("a", "A one"), ("a", "A two"), ("b", "B one")):
        await connection.response.create(model=MODEL, input=text, stream_id=stream_id)
    streams = [await api.engine.next_stream(0), await api.engine.next_stream(1)]
    first = {vocabulary.decode(stream.prompt)[-60:]: stream for stream in streams}
    assert any("A one" in prompt for prompt in first)
    assert any("B one" in prompt for prompt in first)
    assert len(api.engine.opened) == 2
    for stream in streams:
        stream.give(tokens(vocabulary, "Yes"), finish="stop")
    last = await api.engine.next_stream(2)
    assert "A two" in vocabulary.decode(last.prompt)
    last.give(tokens(vocabulary, "Yes"), finish="stop")
    ended: list[str] = []
    numbers: dict[str, list[int]] = {"a": [], "b": []}
    while len(ended) < 3:
        event: Any = await connection.recv()
        numbers[event.stream_id].append(event.sequence_number)
        if event.type == "response.completed":
            ended.append(event.stream_id)
    assert sorted(ended) == ["a", "a", "b"]
    assert numbers["b"] == list(range(len(numbers["b"])))


async def test_nobody_hears_what_is_said_to_another(api: Api, vocabulary: Vocabulary) -> None:
    clients, lanes = 20, 3

    async def engine() -> None:
        for number in range(clients * lanes):
            stream = await api.engine.next_stream(number)
            (nonce,) = re.findall(r"nonce \d+-\d+", vocabulary.decode(stream.prompt))
            stream.give(tokens(vocabulary, nonce), finish="stop")

    async def client(number: int) -> None:
        async with await raw(api) as connection:
            for lane in range(lanes):
                asked = {"type": "response.create", "model": MODEL, "stream_id": str(lane)}
                asked["input"] = f"Say nonce {number}-{lane}"
                await connection.send(json.dumps(asked))
            texts = dict.fromkeys(map(str, range(lanes)), "")
            ended = 0
            while ended < lanes:
                event = json.loads(await connection.recv())
                if event["type"] == "response.output_text.delta":
                    texts[event["stream_id"]] += event["delta"]
                ended += event["type"] == "response.completed"
            assert texts == {str(lane): f"nonce {number}-{lane}" for lane in range(lanes)}

    async with asyncio.timeout(60):
        await asyncio.gather(engine(), *map(client, range(clients)))


async def test_a_client_that_leaves_frees_the_engine_at_once(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    for stream_id in ("a", "b"):
        await connection.response.create(model=MODEL, input="Hello", stream_id=stream_id)
    streams = [await api.engine.next_stream(0), await api.engine.next_stream(1)]
    streams[0].give(tokens(vocabulary, "Hello you")[:-2])
    await connection.recv()
    left = time.perf_counter()
    await connection.close()
    for stream in streams:
        await stream.closed.wait()
    assert time.perf_counter() - left < 0.5  # 0.1 on a machine that does nothing else
    await until(lambda: api.service.backend().pipeline.admission.running == 0)


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


async def raw(api: Api, **options: Any) -> ClientConnection:
    return await websockets.connect(f"ws://127.0.0.1:{api.port}/v1/responses", **options)


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
