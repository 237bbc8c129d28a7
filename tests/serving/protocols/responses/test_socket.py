"""The WebSocket mode through the official client: turns, lanes, what a connection remembers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import openai
from openai.resources.responses.responses import AsyncResponsesConnection

from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until
from tests.serving.protocols.responses.service import WEATHER
from tests.serving.protocols.responses.sockets import answered, raw, tokens, turn
from tests.serving.store.shelf import locked


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


async def test_what_was_deleted_is_not_gone_on_with_from_memory(
    api: Api, connection: AsyncResponsesConnection, vocabulary: Vocabulary
) -> None:
    first, _ = await turn(api, connection, vocabulary, input="One")
    name = first[-1].response.id
    second, _ = await turn(
        api, connection, vocabulary, input="Two", store=False, previous_response_id=name
    )
    assert second[-1].type == "response.completed"
    assert (await api.client.delete(f"/v1/responses/{name}")).status_code == 200
    for previous in (name, second[-1].response.id):
        await connection.response.create(model=MODEL, input="x", previous_response_id=previous)
        (refused,) = await answered(connection)
        assert refused.type == "error"
        assert refused.error.code == "previous_response_not_found"


async def test_a_connection_goes_on_while_the_store_is_locked(
    start: Start, store: dict[str, Any], vocabulary: Vocabulary
) -> None:
    api = await start(store={**store, "wait_seconds": 0.1})
    async with (
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none") as client,
        client.responses.connect() as connection,
    ):
        first, _ = await turn(api, connection, vocabulary, input="One")
        with locked(Path(store["path"])):
            second, _ = await turn(
                api, connection, vocabulary, input="2", previous_response_id=first[-1].response.id
            )
            assert second[-1].response.store is False
            name = second[-1].response.id
            third, stream = await turn(
                api, connection, vocabulary, input="3", previous_response_id=name
            )
            assert third[-1].type == "response.completed"
            assert "Answer 1" in vocabulary.decode(stream.prompt)


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
