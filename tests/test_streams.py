"""A stream, put together, is the whole answer: of the development engine, for every kind of answer.

The same seed gives the same tokens, whatever runs beside them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.commands import Served, serve
from tests.development import MODEL, Machine

SCHEMA = {
    "type": "object",
    "properties": {"country": {"enum": ["France", "Italy"]}, "capital": {"type": "boolean"}},
    "required": ["country", "capital"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
        "strict": True,
    },
}
TOOLS: dict[str, dict[str, Any]] = {
    "no tools": {},
    "tools": {"tools": [WEATHER]},
    "a forced call": {"tools": [WEATHER], "tool_choice": "required"},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "town", "schema": SCHEMA}}
FORMS: dict[str, dict[str, Any]] = {"text": {}, "a schema": {"response_format": FORMAT}}
LOGPROBS: dict[str, dict[str, Any]] = {
    "no logprobs": {},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
}
CHOICES: dict[str, dict[str, Any]] = {"one": {}, "two": {"n": 2}}
KINDS = {
    ", ".join(names): {key: value for _, fields in kind for key, value in fields.items()}
    for kind in itertools.product(TOOLS.items(), FORMS.items(), LOGPROBS.items(), CHOICES.items())
    for names in [[name for name, _ in kind]]
}
SEED = 11
BRIEF = {"reasoning_effort": "low"}
LOGGED = "no tools, text, logprobs, two"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The development engine behind the real `bentoml serve`."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.build()
    extra = {
        "GPT_OSS_ENGINE": str(machine.engine),
        "GPT_OSS_DEADLINES__SCHEMA_SECONDS": "60",  # this test is not about a busy machine
    }
    with serve(machine.home, extra=extra) as running:
        running.wait_until_ready()
        yield running


Choice = dict[str, Any]


async def whole(client: openai.AsyncOpenAI, fields: dict[str, Any]) -> tuple[list[Choice], Any]:
    """Returns the choices and the usage of an answer that comes at once."""
    answer = await client.chat.completions.create(**fields)
    choices = []
    for choice in sorted(answer.choices, key=lambda choice: choice.index):
        message = choice.message.model_dump()
        choices.append(
            {
                "content": message["content"] or "",
                "reasoning": message.get("reasoning") or "",
                "calls": [call["function"] for call in message.get("tool_calls") or ()],
                "logprobs": choice.logprobs.model_dump()["content"] if choice.logprobs else [],
                "finish_reason": choice.finish_reason,
            }
        )
    return choices, counted(answer.usage)


async def streamed(client: openai.AsyncOpenAI, fields: dict[str, Any]) -> tuple[list[Choice], Any]:
    """Returns the same of an answer that comes in pieces."""
    empty = {"content": "", "reasoning": "", "finish_reason": None}
    choices = [
        {**empty, "calls": list[Any](), "logprobs": list[Any]()} for _ in range(fields.get("n", 1))
    ]
    usage = None
    create: Any = client.chat.completions.create
    options = {"include_usage": True}
    async for chunk in await create(**fields, stream=True, stream_options=options):
        usage = chunk.usage or usage
        for piece in chunk.choices:
            add(choices[piece.index], piece.model_dump())
    return choices, counted(usage)


def add(choice: Choice, piece: dict[str, Any]) -> None:
    """Adds a chunk to its choice."""
    delta = piece["delta"]
    choice["content"] += delta.get("content") or ""
    choice["reasoning"] += delta.get("reasoning") or ""
    choice["logprobs"] += (piece["logprobs"] or {}).get("content") or []
    choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
    for call in delta.get("tool_calls") or ():
        if call["index"] == len(choice["calls"]):
            choice["calls"].append({"name": call["function"]["name"], "arguments": ""})
        else:
            assert call["id"] is None
        choice["calls"][call["index"]]["arguments"] += call["function"]["arguments"]


def counted(usage: Any) -> dict[str, Any]:
    """Returns what an answer cost, but for what the cache had by then."""
    fields: dict[str, Any] = usage.model_dump()
    del fields["prompt_tokens_details"]
    return fields


async def test_a_stream_put_together_is_the_whole_answer(served: Served) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    base = {"model": MODEL, "messages": question, "seed": SEED, "max_tokens": 128} | BRIEF
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        wholes = await asyncio.gather(*(whole(client, base | kind) for kind in KINDS.values()))
        streams = await asyncio.gather(*(streamed(client, base | kind) for kind in KINDS.values()))
    for name, one, other in zip(KINDS, wholes, streams, strict=True):
        assert other == one, name
    reasons = {choice["finish_reason"] for choices, _ in wholes for choice in choices}
    assert {"stop", "tool_calls"} <= reasons
    assert all(choice["logprobs"] for choice in wholes[list(KINDS).index(LOGGED)][0])
