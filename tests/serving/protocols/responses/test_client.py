"""The official client's Responses API against the replay engine in its own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import (
    Response,
    ResponseFailedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
    ResponseStreamEvent,
)
from starlette.applications import Starlette

from serving.harmony.vocabulary import Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.responses.service import (
    CALL,
    WEATHER,
    make_script,
    replaying,
    strict_client,
)


@pytest.fixture
async def service(
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[tuple[Starlette, str]]:
    """A ready app over a replay engine, and its base URL."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    directory = replay_engine(make_script(vocabulary))
    async with replaying(directory, tmp_path / "responses.sqlite3") as running:
        yield running


@pytest.fixture
async def client(service: tuple[Starlette, str]) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, checking every response against its types."""
    async with strict_client(service[1]) as client:
        yield client


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> list[ResponseStreamEvent]:
    stream = await client.responses.create(model=MODEL, stream=True, **fields)
    return [event async for event in stream]


def comparable(response: Response) -> dict[str, Any]:
    """Returns what two answers to one request have in common: all but ids, times and cache."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            changing = ("id", "call_id", "created_at", "completed_at", "cached_tokens")
            return {key: bare(item) for key, item in value.items() if key not in changing}
        return [bare(item) for item in value] if isinstance(value, list) else value

    compared = bare(response.model_dump())
    assert isinstance(compared, dict)
    return compared


async def test_a_conversation(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="Hi", instructions="Be kind.")
    assert response.status == "completed"
    assert response.output_text == "Hello, wörld 😀!"
    reasoning, message = response.output
    assert isinstance(reasoning, ResponseReasoningItem)
    assert reasoning.content is not None
    assert reasoning.content[0].text == "A greeting 😀."
    assert isinstance(message, ResponseOutputMessage)
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    again = await client.responses.create(model=MODEL, input="Hi", instructions="Be kind.")
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "Hi"},
        {"input": "Hi", "reasoning": {"summary": "auto", "effort": "high"}},
        {"input": "Hi", "include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
        {"input": "Hi", "top_logprobs": 2},
        {"input": "Tell me the rainfall", "tools": [WEATHER]},
        {"input": "Hi", "max_output_tokens": 6},
        {"input": "Hi", "max_output_tokens": 14},
        {"input": "Tell me the rainfall", "tools": [WEATHER], "max_output_tokens": 24},
    ],
)
async def test_the_stream_is_the_answer_in_pieces(
    client: openai.AsyncOpenAI, fields: dict[str, Any]
) -> None:
    whole = await client.responses.create(model=MODEL, **fields)
    events = await streamed(client, **fields)
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert comparable(last.response) == comparable(whole)
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_the_stream_helper_assembles_text_and_calls(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="Hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello, wörld 😀!"
    async with client.responses.stream(
        model=MODEL, input="Tell me the rainfall", tools=[WEATHER]
    ) as stream:
        final = await stream.get_final_response()
    call = final.output[-1]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == (CALL.name, CALL.arguments)


@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]])
async def test_a_function_s_output_goes_back_with_the_items_before_it(
    client: openai.AsyncOpenAI, include: Any
) -> None:
    items: list[Any] = [{"role": "user", "content": "Tell me the rainfall"}]
    first = await client.responses.create(
        model=MODEL, input=items, tools=[WEATHER], include=include, store=False
    )
    call = first.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    items += [item.model_dump(exclude_none=True) for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": " sunshine"})
    second = await client.responses.create(model=MODEL, input=items, tools=[WEATHER], store=False)
    assert second.output_text == "Hello, wörld 😀!"


async def test_errors_arrive_as_the_client_s_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.responses.create(model=MODEL, input="Hi", temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(model="gpt-5", input="Hi")
    assert missing.value.code == "model_not_found"


async def test_an_engine_that_dies_in_a_stream_fails_the_response(
    client: openai.AsyncOpenAI,
) -> None:
    events = await streamed(client, input="murder")
    failed = events[-1]
    assert isinstance(failed, ResponseFailedEvent)
    assert failed.response.status == "failed"
    assert failed.response.error is not None
    assert failed.response.error.code == "server_error"
    assert failed.response.output_text == "some words"
    opened = [event.type for event in events if event.type.endswith(".added")]
    closed = [event.type for event in events if event.type.endswith("item.done")]
    assert len(opened) == 2
    assert len(closed) == 1


async def test_an_engine_that_dies_before_the_first_token_is_a_503(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        await client.responses.create(model=MODEL, input="murder")
    assert failed.value.status_code == 503
