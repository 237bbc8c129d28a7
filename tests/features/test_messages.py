"""Messages, embeddings, models and metrics of a service on the embedded runtime."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.commands import Served
from tests.development import MODEL

ASKED: Any = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"country": {"enum": ["France", "Italy"]}, "millions": {"type": "integer"}},
    "required": ["country", "millions"],
    "additionalProperties": False,
}
TOOL: Any = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
    "strict": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "a schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "a tool": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "a stop sequence": {"stop_sequences": ["Paris"]},
}


@pytest.fixture
async def messages(served: Served) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    """Anthropic's client."""
    async with anthropic.AsyncAnthropic(
        base_url=served.url, api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_comes_whole_and_in_a_stream(
    messages: anthropic.AsyncAnthropic, kind: str
) -> None:
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 1200, "messages": ASKED}
    fields |= {"extra_body": {"temperature": 0, **KINDS[kind]}}
    whole = await messages.messages.create(**fields)
    async with messages.messages.stream(**fields) as stream:
        streamed = await stream.get_final_message()
    left_out = {"id", "usage"}
    blocks = [
        [block.model_dump(exclude=left_out) for block in message.content]
        for message in (whole, streamed)
    ]
    assert blocks[0] == blocks[1]
    assert whole.stop_reason == streamed.stop_reason
    expected = {"a tool": "tool_use", "a stop sequence": "stop_sequence"}
    assert whole.stop_reason in (expected.get(kind, "end_turn"), "max_tokens")
    if kind == "a schema" and whole.stop_reason == "end_turn":
        (block,) = [block for block in whole.content if block.type == "text"]
        assert set(json.loads(block.text)) == {"country", "millions"}


async def test_tokens_are_counted(messages: anthropic.AsyncAnthropic) -> None:
    counted = await messages.messages.count_tokens(model=MODEL, messages=ASKED)
    answered = await messages.messages.create(model=MODEL, messages=ASKED, max_tokens=1)
    usage = answered.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


async def test_texts_become_vectors(client: openai.AsyncOpenAI) -> None:
    model = "sentence-transformers/all-MiniLM-L6-v2"
    found = await client.embeddings.create(model=model, input=["a cat", "a kitten", "tax law"])
    cat, kitten, law = (one.embedding for one in found.data)
    near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, law))
    assert near > far + 0.2


async def test_a_conversation_is_tokenized_as_it_would_be_answered(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    told = await http.post("tokenize", json={"model": MODEL, "messages": ASKED})
    answer = await client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=1)
    assert answer.usage is not None
    assert told.json()["count"] == answer.usage.prompt_tokens


async def test_the_model_says_what_it_can(http: httpx.AsyncClient) -> None:
    model = (await http.get(f"models/{MODEL}")).json()
    assert model["capabilities"]["structured_outputs"] is True
    assert model["capabilities"]["logprobs"] is True


async def test_metrics_count_no_failure_of_the_engine(http: httpx.AsyncClient) -> None:
    page = (await http.get(str(http.base_url.join("/metrics")))).text
    assert 'code="engine_error"' not in page
    assert 'code="internal_error"' not in page
