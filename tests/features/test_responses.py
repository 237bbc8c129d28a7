"""The Responses API, kept and continued in every way, by the embedded runtime."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
import websockets

from tests.commands import Served
from tests.development import MODEL

QUESTION = "What is the capital of France?"
LOW: Any = {"effort": "low"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"country": {"enum": ["France", "Italy"]}, "capital": {"type": "boolean"}},
    "required": ["country", "capital"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "a schema": {"text": {"format": {"type": "json_schema", "name": "town", "schema": SCHEMA}}},
    "an object": {"text": {"format": {"type": "json_object"}}, "seed": 3},
    "a forced call": {"tools": [WEATHER], "tool_choice": "required"},
    "cut": {"max_output_tokens": 16},
}


def items(response: Any) -> list[Any]:
    """Returns the output without ids."""
    left_out = {"id": True, "call_id": True}
    return [item.model_dump(exclude=left_out) for item in response.output]


async def create(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    seed = {"extra_body": {"seed": fields.pop("seed")}} if "seed" in fields else {}
    base = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 300}
    made: Any = client.responses.create
    return await made(**(base | {"reasoning": LOW} | fields), **seed)


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    for _ in range(5000):
        found = await client.responses.retrieve(response_id)
        if found.status not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize("kind", KINDS)
async def test_every_way_gives_the_same_response(
    client: openai.AsyncOpenAI, served: Served, kind: str
) -> None:
    fields = KINDS[kind]
    whole = await create(client, **fields)
    assert (
        whole.status == "incomplete"
        if kind == "cut"
        else whole.status in (*("completed", "incomplete"),)
    )
    if kind == "a schema":
        assert set(json.loads(whole.output_text)) == {"country", "capital"}

    async for event in await create(client, **fields, stream=True):
        last = event
    assert items(last.response) == items(whole)
    assert items(await client.responses.retrieve(whole.id)) == items(whole)

    begun = await create(client, **fields, background=True)
    assert items(await ended(client, begun.id)) == items(whole)

    resumed = await create(client, **fields, background=True, stream=True)
    async for event in resumed:
        last = event
        if event.type == "response.in_progress":
            break
    again = await client.responses.retrieve(
        last.response.id, stream=True, starting_after=last.sequence_number
    )
    async for event in again:
        last = event
    assert items(last.response) == items(whole)

    url = served.url.replace("http", "ws") + "/v1/responses"
    body = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 300}
    async with websockets.connect(url) as socket:
        message = {"type": "response.create", **body, "reasoning": LOW, **fields}
        await socket.send(json.dumps(message))
        while True:
            told = json.loads(await socket.recv())
            if told["type"] in ("response.completed", "response.incomplete"):
                break
            assert told["type"] not in ("error", "response.failed"), told
    assert [item["type"] for item in told["response"]["output"]] == [
        item.type for item in whole.output
    ]


async def test_a_conversation_goes_on_by_id_and_by_conversation(
    client: openai.AsyncOpenAI,
) -> None:
    first = await create(client)
    assert "Paris" in first.output_text
    second = await create(client, previous_response_id=first.id, input="And of Italy?")
    assert second.previous_response_id == first.id
    listed = await client.responses.input_items.list(second.id)
    assert [item.type for item in listed.data] == ["message"]
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)

    made = await client.conversations.create(metadata={"topic": "towns"})
    await create(client, conversation=made.id)
    await create(client, conversation=made.id, input="And of Italy?")
    kept = [item async for item in client.conversations.items.list(made.id, order="asc")]
    asked = [item for item in kept if item.type == "message" and item.role == "user"]
    assert len(asked) == 2
    assert len(kept) >= 4
    await client.conversations.delete(made.id)


async def test_a_call_is_answered_and_the_answer_is_told(client: openai.AsyncOpenAI) -> None:
    first = await create(client, input="What is the weather in Paris?", tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"temperature": 14}',
    }
    second = await create(client, previous_response_id=first.id, input=[result], tools=[WEATHER])
    assert "14" in second.output_text


async def test_the_prompt_is_counted_compacted_and_cancelled(client: openai.AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model=MODEL, input=QUESTION, reasoning=LOW)
    first = await create(client)
    assert first.usage.input_tokens == counted.input_tokens
    compacted = await client.responses.compact(model=MODEL, previous_response_id=first.id)
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    running = await create(client, background=True, input="Tell me a long story. " * 50)
    gone = await client.responses.cancel(running.id)
    assert gone.status in ("cancelled", "completed", "incomplete")
