"""Stored responses: continued, read, listed, deleted, counted; across a restart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from starlette.applications import Starlette

from serving.harmony.vocabulary import Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.responses.service import WEATHER, make_script, replaying, strict_client

ENGLISH: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def engine(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where the engine is."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    return replay_engine(make_script(vocabulary))


@pytest.fixture
async def service(engine: Path, tmp_path: Path) -> AsyncGenerator[tuple[Starlette, str]]:
    """A ready app over a replay engine, and its base URL."""
    async with replaying(engine, tmp_path / "responses.sqlite3") as running:
        yield running


@pytest.fixture
async def client(service: tuple[Starlette, str]) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, checking every response against its types."""
    async with strict_client(service[1]) as client:
        yield client


async def test_a_conversation_goes_on_by_the_id_of_its_last_response(
    client: openai.AsyncOpenAI,
) -> None:
    first = await client.responses.create(model=MODEL, input="One", instructions="Only now.")
    second = await client.responses.create(model=MODEL, input="Two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    said = first.output[-1]
    assert said.type == "message"
    whole: Any = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Two"},
    ]
    alone = await client.responses.create(model=MODEL, input=whole, store=False)
    assert second.usage is not None
    assert alone.usage is not None
    assert second.usage.input_tokens == alone.usage.input_tokens
    counted = await client.responses.input_tokens.count(
        model=MODEL, input="Two", previous_response_id=first.id
    )
    assert counted.input_tokens == alone.usage.input_tokens


async def test_a_prompt_is_computed_ahead(client: openai.AsyncOpenAI) -> None:
    context = "The rules of the house. " * 40
    warm = await client.responses.create(
        model=MODEL, input=context, prompt_cache_options={"prewarm": True}
    )
    assert (warm.status, warm.output) == ("completed", [])
    assert warm.usage is not None
    assert warm.usage.output_tokens == 0
    first = await client.responses.create(
        model=MODEL, input="Are they kept?", previous_response_id=warm.id
    )
    assert first.output_text == "Hello, wörld 😀!"
    assert first.usage is not None
    assert first.usage.input_tokens_details.cached_tokens > 200


async def test_a_function_s_output_goes_back_alone(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model=MODEL, input="Tell me the rainfall", tools=[WEATHER]
    )
    call = first.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": " sunshine"}
    second = await client.responses.create(
        model=MODEL, input=[output], tools=[WEATHER], previous_response_id=first.id
    )
    assert second.output_text == "Hello, wörld 😀!"


async def test_items_can_be_named_instead_of_sent(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model=MODEL, input="Tell me the rainfall", tools=[WEATHER]
    )
    call = first.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    items: Any = [
        {"role": "user", "content": "Tell me the rainfall"},
        *({"type": "item_reference", "id": item.id} for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": " sunshine"},
    ]
    second = await client.responses.create(model=MODEL, input=items, tools=[WEATHER])
    assert second.output_text == "Hello, wörld 😀!"
    listed = [item async for item in client.responses.input_items.list(second.id, order="asc")]
    assert [item.id for item in listed[1:4]] == [item.id for item in first.output]
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(
            model=MODEL, input=[{"type": "item_reference", "id": "msg_no"}]
        )
    assert missing.value.param == "input[0].id"


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_was_sent_can_be_read_again_and_deleted(
    client: openai.AsyncOpenAI, streamed: bool
) -> None:
    if streamed:
        async with client.responses.stream(model=MODEL, input="Hi", metadata={"a": "b"}) as stream:
            response_id = (await stream.get_final_response()).id
    else:
        made = await client.responses.create(model=MODEL, input="Hi", metadata={"a": "b"})
        response_id = made.id
        assert await client.responses.retrieve(made.id) == made
    read = await client.responses.retrieve(response_id)
    assert read.output_text == "Hello, wörld 😀!"
    assert read.metadata == {"a": "b"}
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(response_id)
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(response_id, stream=True)
    await client.responses.delete(response_id)
    for again in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            await again(response_id)
    with pytest.raises(openai.BadRequestError) as missing:
        await client.responses.create(model=MODEL, input="x", previous_response_id=response_id)
    assert missing.value.param == "previous_response_id"
    assert missing.value.code == "previous_response_not_found"


async def test_the_input_is_listed_page_by_page(client: openai.AsyncOpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "One"}]},
        {"role": "assistant", "content": "Two"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "Four"},
        {"type": "reasoning", "id": "rs_x", "summary": [{"type": "summary_text", "text": "Hm"}]},
    ]
    made = await client.responses.create(model=MODEL, input=items)
    page = await client.responses.input_items.list(made.id, limit=4, order="asc")
    assert [item.type for item in page.data] == ["message"] * 3 + ["function_call"]
    assert page.has_more
    rest = [item async for item in client.responses.input_items.list(made.id, limit=2)]
    assert [item.type for item in rest][:2] == ["reasoning", "function_call_output"]
    assert len(rest) == 6
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "no"}):
        fields: Any = wrong
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(made.id, **fields)


async def test_what_is_not_to_be_stored_is_not(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_a_response_that_failed_after_it_was_told_can_be_read(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.responses.create(model=MODEL, input="murder", stream=True)
    failed = [event async for event in stream][-1]
    assert failed.type == "response.failed"
    assert await client.responses.retrieve(failed.response.id) == failed.response


async def test_responses_survive_a_restart(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "responses.sqlite3"
    async with replaying(engine, path) as (_, url), strict_client(url) as client:
        made = await client.responses.create(model=MODEL, input="Hi")
    async with replaying(engine, path) as (_, url), strict_client(url) as client:
        assert await client.responses.retrieve(made.id) == made
        await client.responses.create(model=MODEL, input="Go on", previous_response_id=made.id)


async def test_a_response_in_the_background_is_asked_for_until_it_is_there(
    client: openai.AsyncOpenAI,
) -> None:
    response = await client.responses.create(model=MODEL, input="Hi", background=True)
    while response.status in ("queued", "in_progress"):
        response = await client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert response.output_text == "Hello, wörld 😀!"
    assert await client.responses.cancel(response.id) == response
    again = await client.responses.create(
        model=MODEL, input="More", previous_response_id=response.id
    )
    assert again.status == "completed"


async def test_a_disk_that_fails_costs_no_answer_and_is_told(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    async with (
        replaying(engine, tmp_path / "file" / "x") as (_, url),
        strict_client(url) as client,
    ):
        made = await client.responses.create(model=MODEL, input="Hi")
        assert made.model_extra is not None
        assert made.model_extra["store"] is False
        with pytest.raises(openai.InternalServerError) as failed:
            await client.responses.retrieve(made.id)
        assert str(tmp_path) not in str(failed.value)
