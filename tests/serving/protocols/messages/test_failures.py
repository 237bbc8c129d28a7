"""Failures and clients that leave, on the addresses of Anthropic's Messages."""

from __future__ import annotations

import asyncio

import pytest

from serving.boundary.lifecycle import EngineState
from serving.boundary.messages import Fault, Output
from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api, connected, until
from tests.serving.protocols.messages.scene import (
    ADDRESS,
    answer,
    ask,
    body_of,
    events_of,
)


async def test_every_failure_on_these_addresses_has_their_shape(api: Api, start: Start) -> None:
    missing = await ask(api, model="claude")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    nowhere = await api.client.post(f"{ADDRESS}/batches", json={})
    assert (nowhere.status_code, nowhere.json()["error"]["type"]) == (404, "not_found_error")
    method = await api.client.get(ADDRESS)
    assert (method.status_code, method.json()["type"]) == (405, "error")
    assert method.headers["allow"] == "POST"
    kind = await api.client.post(ADDRESS, content=b"x", headers={"content-type": "text/plain"})
    assert (kind.status_code, kind.json()["type"]) == (415, "error")
    large = await api.client.post(ADDRESS, content=b"x" * 5_000_000)
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    other = await api.client.post("/v1/messagesx", json={})
    assert "type" in other.json()["error"]
    assert "type" not in other.json()


async def test_a_server_that_is_full_or_down_says_so(start: Start) -> None:
    api = await start(admission={"max_running": 1, "max_waiting": 0})
    running = ask(api)
    await api.engine.next_stream()
    full = await ask(api)
    assert (full.status_code, full.json()["error"]["type"]) == (503, "overloaded_error")
    assert "retry-after" in full.headers
    running.cancel()
    api.engine.enter(EngineState.BACKOFF)
    counted = await api.client.post(f"{ADDRESS}/count_tokens", json=body_of())
    assert counted.status_code == 200
    await until(lambda: api.service.backend().pipeline.admission.running == 0)
    down = await ask(api)
    assert (down.status_code, down.json()["error"]["type"]) == (503, "api_error")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_before_the_first_token_has_a_true_status(api: Api, streamed: bool) -> None:
    asked = ask(api, stream=streamed)
    stream = await api.engine.next_stream()
    stream.push(0, Output(1, [], "error", fault=Fault("internal", "It broke.")))
    response = await asked
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")


async def test_a_failure_after_tokens_is_the_last_event(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, stream=True)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hello")[:-1])
    await until(stream.all_taken)
    await asyncio.sleep(0.02)
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    response = await asked
    assert response.status_code == 200
    events = events_of(response.text)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "api_error", "message": "The engine stopped."}
    assert "message_stop" not in [event["type"] for event in events]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_aborts(
    api: Api, vocabulary: Vocabulary, streamed: bool
) -> None:
    async with connected(api.port) as client:
        await client.post(body_of(stream=streamed), path=ADDRESS)
        stream = await api.engine.next_stream()
        stream.give(answer(vocabulary, "Hello")[:-1])
        await until(stream.all_taken)
    await until(stream.closed.is_set)
    await until(lambda: api.service.backend().pipeline.admission.running == 0)
