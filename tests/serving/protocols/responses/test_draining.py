"""Responses of a service that takes leave: in the background and on WebSockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serving.control.drain import Drain
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeStream
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until
from tests.serving.protocols.responses.sockets import answered, raw, tokens

SOON = {"notice_seconds": 0, "running_seconds": 60}
AT_ONCE = {"notice_seconds": 0, "running_seconds": 0}


def drain_of(api: Api) -> Drain:
    drain: Drain = api.app.state.drain
    return drain


async def begin(api: Api, **fields: Any) -> tuple[str, FakeStream]:
    """Begins a response in the background; returns its id and its engine's end."""
    body = {"model": MODEL, "input": "Hello", "background": True, **fields}
    begun = (await api.client.post("/v1/responses", json=body)).json()
    return begun["id"], await api.engine.next_stream()


async def kept(start: Start, store: dict[str, Any], response_id: str) -> dict[str, Any]:
    """Returns a response as the next process finds it."""
    following = await start(store=store)
    body: dict[str, Any] = (await following.client.get(f"/v1/responses/{response_id}")).json()
    return body


async def to_the_end(socket: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """Returns what comes until the socket is closed, and the code that it is closed with."""
    events: list[dict[str, Any]] = []
    with suppress(ConnectionClosed):
        async for message in socket:
            events.append(json.loads(message))
    return events, socket.close_code


async def test_a_response_in_the_background_is_waited_for(
    start: Start, store: dict[str, Any], vocabulary: Vocabulary
) -> None:
    api = await start(store=store, drain=SOON)
    response_id, stream = await begin(api)
    drain_of(api).begin()
    assert not drain_of(api).done
    stream.give(tokens(vocabulary, "Done."), finish="stop")
    await until(lambda: drain_of(api).done)
    body = await kept(start, store, response_id)
    assert body["status"] == "completed"


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_that_is_not_done_in_time_has_failed_for_that_reason(
    start: Start, store: dict[str, Any], vocabulary: Vocabulary, streamed: bool
) -> None:
    api = await start(store=store, drain=AT_ONCE)
    if streamed:
        body = {"model": MODEL, "input": "Hello", "background": True, "stream": True}
        reading = asyncio.create_task(api.client.post("/v1/responses", json=body))
        stream = await api.engine.next_stream()
    else:
        response_id, stream = await begin(api)
    stream.give(tokens(vocabulary, "Half")[:-1])
    await until(stream.all_taken)
    drain = drain_of(api)
    drain.begin()
    await until(lambda: drain.done)
    if streamed:
        last = (await reading).text.strip().split("\n\n")[-1]
        assert last.startswith("event: response.failed")
        response_id = json.loads(last.partition("data: ")[2])["response"]["id"]
    failed = await kept(start, store, response_id)
    assert failed["status"] == "failed"
    assert "shutting down" in failed["error"]["message"]


async def test_a_turn_is_finished_the_next_refused_and_the_socket_closed(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(drain=SOON)
    socket = await raw(api)
    request = {"type": "response.create", "model": MODEL, "input": "One", "store": False}
    await socket.send(json.dumps(request))
    await socket.send(json.dumps({**request, "input": "Two"}))
    stream = await api.engine.next_stream()
    drain_of(api).begin()
    with pytest.raises(InvalidStatus) as refused:
        await raw(api)
    assert refused.value.response.status_code == 503
    stream.give(tokens(vocabulary, "Whole."), finish="stop")
    events, code = await to_the_end(socket)
    kinds = [event["type"] for event in events]
    assert kinds[-3:] == ["response.completed", "error", "error"]
    assert {event["error"]["code"] for event in events[-2:]} == {"draining"}
    assert code == 1012
    assert len(api.engine.opened) == 1


async def test_an_idle_socket_is_closed_after_the_notice(start: Start) -> None:
    api = await start(drain=SOON)
    socket = await raw(api)
    drain_of(api).begin()
    events, code = await to_the_end(socket)
    assert ([event["error"]["code"] for event in events], code) == (["draining"], 1012)


async def test_a_turn_that_is_not_over_in_time_ends_as_its_protocol_says(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(drain=AT_ONCE)
    socket = await raw(api)
    await socket.send(json.dumps({"type": "response.create", "model": MODEL, "input": "One"}))
    stream = await api.engine.next_stream()
    stream.give(tokens(vocabulary, "Half")[:-1])
    await until(stream.all_taken)
    drain_of(api).begin()
    events, _ = await to_the_end(socket)
    assert "response.failed" in [event["type"] for event in events]
    await until(lambda: drain_of(api).done)


async def test_the_official_client_reads_a_turn_to_its_end(
    start: Start, vocabulary: Vocabulary, api: Api, connection: AsyncResponsesConnection
) -> None:
    await connection.response.create(model=MODEL, input="Hello")
    stream = await api.engine.next_stream()
    drain_of(api).begin(0)
    stream.give(tokens(vocabulary, "Whole."), finish="stop")
    assert (await answered(connection))[-1].type == "response.completed"
