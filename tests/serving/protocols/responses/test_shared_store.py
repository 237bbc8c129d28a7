"""Several services on one store: each tells the truth of what another makes in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeStream
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, eventually, sse_events, until
from tests.serving.store.maker import NAME, making


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the responses of all services are."""
    return tmp_path / "responses.sqlite3"


@pytest.fixture
async def maker(start: Start, path: Path) -> Api:
    """The service that makes the responses."""
    return await start(store={"path": str(path)})


@pytest.fixture
async def other(start: Start, path: Path) -> Api:
    """Another service on the same store."""
    return await start(store={"path": str(path)})


async def begin(api: Api, **fields: Any) -> tuple[str, FakeStream]:
    body = {"model": MODEL, "input": "Hello", "background": True, **fields}
    if not fields.get("stream"):
        begun = (await api.client.post("/v1/responses", json=body)).json()
        return begun["id"], await api.engine.next_stream()
    async with api.client.stream("POST", "/v1/responses", json=body) as answer:
        line = await anext(line async for line in answer.aiter_lines() if "resp_" in line)
    name = line[line.index("resp_") :].split('"')[0]
    return name, await api.engine.next_stream()


async def read(api: Api, name: str) -> tuple[int, str | None]:
    answer = await api.client.get(f"/v1/responses/{name}")
    return answer.status_code, answer.json().get("status")


def hello(vocabulary: Vocabulary) -> list[int]:
    return render_completion(Assistant(reasoning="Hm.", content="Hello you"), vocabulary)


async def becomes(api: Api, name: str, wanted: tuple[int, str | None]) -> None:
    async def so() -> bool:
        return await read(api, name) == wanted

    await eventually(so)


async def test_what_another_service_makes_is_in_progress_until_it_ends(
    maker: Api, other: Api, vocabulary: Vocabulary
) -> None:
    name, stream = await begin(maker)
    assert await read(other, name) == (200, "in_progress")
    body = {"model": MODEL, "input": "x", "previous_response_id": name}
    early = await other.client.post("/v1/responses", json=body)
    assert (early.status_code, early.json()["error"]["param"]) == (400, "previous_response_id")
    stream.give(hello(vocabulary), finish="stop")
    await becomes(maker, name, (200, "completed"))
    assert await read(other, name) == (200, "completed")


async def test_it_is_cancelled_from_anywhere(maker: Api, other: Api) -> None:
    name, stream = await begin(maker)
    cancelled = (await other.client.post(f"/v1/responses/{name}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert stream.closed.is_set()
    assert await read(maker, name) == (200, "cancelled")


async def test_what_another_service_deletes_ends_and_does_not_come_back(
    maker: Api, other: Api
) -> None:
    name, stream = await begin(maker)
    assert (await other.client.delete(f"/v1/responses/{name}")).status_code == 200
    await until(stream.closed.is_set)
    await becomes(maker, name, (404, None))
    assert await read(other, name) == (404, None)


async def test_an_end_that_comes_after_the_deletion_is_not_written(
    maker: Api, other: Api, vocabulary: Vocabulary
) -> None:
    name, stream = await begin(maker)
    assert (await other.client.delete(f"/v1/responses/{name}")).status_code == 200
    stream.give(hello(vocabulary), finish="stop")  # before the maker has looked
    await becomes(maker, name, (404, None))
    assert await read(other, name) == (404, None)
    items = await other.client.get(f"/v1/responses/{name}/input_items")
    assert items.status_code == 404


async def test_a_stream_is_read_from_another_service_when_it_has_ended(
    maker: Api, other: Api, vocabulary: Vocabulary
) -> None:
    name, stream = await begin(maker, stream=True)
    reading = asyncio.create_task(
        other.client.get(f"/v1/responses/{name}", params={"stream": "true", "starting_after": 1})
    )
    await asyncio.sleep(0.1)
    stream.give(hello(vocabulary), finish="stop")
    text = (await reading).text
    events = sse_events("".join(f"{part}\n\n" for part in _data(text)))
    assert [event["sequence_number"] for event in events] == list(range(2, 2 + len(events)))
    assert events[-1]["type"] == "response.completed"


def _data(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("data: ")]


async def test_what_a_process_made_that_was_killed_has_failed_at_once(
    other: Api, path: Path
) -> None:
    with making(path) as process:
        assert await read(other, NAME) == (200, "in_progress")
        process.kill()
        process.wait()
        assert await read(other, NAME) == (200, "failed")
        text = (await other.client.get(f"/v1/responses/{NAME}?stream=true")).text
        assert "response.failed" in text
        cancelled = await other.client.post(f"/v1/responses/{NAME}/cancel")
        assert cancelled.json()["status"] == "failed"
