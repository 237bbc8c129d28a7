"""Streams of responses in the background: left, resumed anywhere, cancelled, read when ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.store.owner import Owner
from tests.serving.fake_engine import FakeStream
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api
from tests.serving.protocols.responses.service import strict_client

FIRST = ["response.created", "response.queued"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the responses are."""
    return tmp_path / "responses.sqlite3"


@pytest.fixture
async def api(start: Start, path: Path) -> Api:
    """A ready API with a store of its own."""
    return await start(store={"path": str(path)})


@pytest.fixture
async def client(api: Api) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, checking every response against its types."""
    async with strict_client(f"http://127.0.0.1:{api.port}/v1") as client:
        yield client


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    return render_completion(Assistant(reasoning="Hm.", content=text), vocabulary)


async def begin(
    client: openai.AsyncOpenAI, api: Api
) -> tuple[openai.AsyncStream[ResponseStreamEvent], FakeStream]:
    number = len(api.engine.opened)
    stream = await client.responses.create(model=MODEL, input="Hello", background=True, stream=True)
    return stream, await api.engine.next_stream(number)


async def take(
    stream: openai.AsyncStream[ResponseStreamEvent], count: int
) -> list[ResponseStreamEvent]:
    return [await anext(stream) for _ in range(count)]


def response_of(event: ResponseStreamEvent) -> Response:
    response: Any = getattr(event, "response", None)
    assert isinstance(response, Response)
    return response


async def resumed(
    client: openai.AsyncOpenAI, response_id: str, after: int
) -> list[ResponseStreamEvent]:
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=after)
    return [event async for event in stream]


async def test_it_is_left_and_resumed_where_it_was_left(
    api: Api, client: openai.AsyncOpenAI, vocabulary: Vocabulary
) -> None:
    stream, engine = await begin(client, api)
    seen = await take(stream, 2)
    assert [event.type for event in seen] == FIRST
    assert response_of(seen[0]).status == "queued"
    answer = tokens(vocabulary, "Hello to all of you")
    engine.give(answer[:-3])
    seen += await take(stream, 3)
    assert seen[2].type == "response.in_progress"
    await stream.close()
    rest = asyncio.create_task(resumed(client, response_of(seen[0]).id, seen[-1].sequence_number))
    again = asyncio.create_task(resumed(client, response_of(seen[0]).id, -0))
    engine.give(answer[-3:], finish="stop")
    events = [*seen, *await rest]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    final = response_of(events[-1])
    assert final.output_text == "Hello to all of you"
    assert await again == events[1:]
    # The same when all is over, from the store, with the client's own helper too.
    assert await resumed(client, final.id, 3) == events[4:]
    assert await resumed(client, final.id, len(events)) == []
    async with client.responses.stream(response_id=final.id) as replayed:
        assert (await replayed.get_final_response()).output_text == final.output_text
    assert await client.responses.retrieve(final.id) == final


async def test_cancelling_ends_the_stream(
    api: Api, client: openai.AsyncOpenAI, vocabulary: Vocabulary
) -> None:
    stream, engine = await begin(client, api)
    engine.give(tokens(vocabulary, "Hello you")[:-2])
    seen = await take(stream, 6)
    name = response_of(seen[0]).id
    cancelled = await client.responses.cancel(name)
    assert cancelled.status == "cancelled"
    seen += [event async for event in stream]
    assert seen[-1].type == "response.incomplete"
    assert response_of(seen[-1]) == cancelled
    opened = [event.type for event in seen if event.type.endswith("item.added")]
    closed = [event.type for event in seen if event.type.endswith("item.done")]
    assert len(opened) == len(closed)
    assert engine.closed.is_set()
    assert await resumed(client, name, 1) == seen[2:]


async def test_a_failure_ends_the_stream_and_is_read_later(
    api: Api, client: openai.AsyncOpenAI, vocabulary: Vocabulary
) -> None:
    stream, engine = await begin(client, api)
    engine.give(tokens(vocabulary, "Hello you")[:-2])
    engine.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert await resumed(client, response_of(events[0]).id, 0) == events[1:]


async def test_one_that_fails_before_its_turn_tells_so(
    api: Api, client: openai.AsyncOpenAI
) -> None:
    stream, engine = await begin(client, api)
    engine.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    assert [event.type async for event in stream] == [*FIRST, "response.failed"]


async def test_what_the_end_of_the_process_cut_off_is_told_where_it_is_resumed(
    api: Api,
    client: openai.AsyncOpenAI,
    start: Start,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, _ = await begin(client, api)
    name = response_of((await take(stream, 2))[0]).id
    # As if this process had been killed: another on the same file sees what stands there.
    monkeypatch.setattr(Owner, "lives", lambda owner, name: False)
    second = await start(store={"path": str(path)})
    async with strict_client(f"http://127.0.0.1:{second.port}/v1") as other:
        (failed,) = await resumed(other, name, 1)
    assert (failed.type, failed.sequence_number) == ("response.failed", 2)
    assert response_of(failed).status == "failed"
    await stream.close()


async def test_deleting_ends_the_stream(api: Api, client: openai.AsyncOpenAI) -> None:
    stream, engine = await begin(client, api)
    name = response_of((await take(stream, 2))[0]).id
    await client.responses.delete(name)
    assert [event.type async for event in stream] == ["response.incomplete"]
    assert engine.closed.is_set()
    with pytest.raises(openai.NotFoundError):
        await resumed(client, name, 0)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true", "stream"),
        ("stream=perhaps", "stream"),
        ("starting_after=1", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("include=everything", "include"),
    ],
)
async def test_what_cannot_be_read_is_named(
    api: Api, vocabulary: Vocabulary, query: str, param: str
) -> None:
    body = {"model": MODEL, "input": "Hello", "background": True}
    begun = (await api.client.post("/v1/responses", json=body)).json()
    for _ in range(2):  # while it runs, and when it has ended
        wrong = await api.client.get(f"/v1/responses/{begun['id']}?{query}")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)
        await api.client.post(f"/v1/responses/{begun['id']}/cancel")


async def test_reasoning_is_sealed_when_it_is_asked_for_later(
    api: Api, client: openai.AsyncOpenAI, vocabulary: Vocabulary
) -> None:
    stream, engine = await begin(client, api)
    engine.give(tokens(vocabulary, "Hello"), finish="stop")
    name = response_of([event async for event in stream][-1]).id
    read = await client.responses.retrieve(name, include=["reasoning.encrypted_content"])
    assert read.output[0].type == "reasoning"
    assert read.output[0].encrypted_content
