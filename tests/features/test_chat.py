"""Chat Completions by the embedded runtime: what streams of `test_streams` do not ask for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.development import MODEL

ASKED: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
LOW = {"reasoning_effort": "low"}


async def ask(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    """Returns the choices of an answer."""
    fields = {"model": MODEL, "messages": ASKED, "temperature": 0, **LOW, **fields}
    return (await client.chat.completions.create(**fields)).choices


async def text(client: openai.AsyncOpenAI, **fields: Any) -> str:
    return (await ask(client, **fields))[0].message.content or ""


async def test_choices_by_a_seed_can_be_had_again_one_by_one(client: openai.AsyncOpenAI) -> None:
    both = await ask(client, temperature=1.5, seed=40, n=2, max_tokens=60)
    alone = [await ask(client, temperature=1.5, seed=seed, max_tokens=60) for seed in (40, 41)]
    assert [choice.message for choice in both] == [one[0].message for one in alone]


async def test_a_stop_string_cuts_the_answer(client: openai.AsyncOpenAI) -> None:
    whole = await text(client)
    assert "Paris" in whole
    (cut,) = await ask(client, stop=["Paris"])
    assert cut.message.content == (whole[: whole.index("Paris")] or None)
    assert cut.finish_reason == "stop"


async def test_a_limit_cuts_it_and_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, max_completion_tokens=3
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_a_bias_keeps_a_token_away_or_forces_it(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    answer = await http.post("tokenize", json={"model": MODEL, "prompt": " Paris"})
    (paris,) = answer.json()["tokens"]
    assert "Paris" in await text(client)
    assert " Paris" not in await text(client, logit_bias={str(paris): -100})
    forced = await http.post(
        "completions",
        json={"model": MODEL, "prompt": "x", "max_tokens": 3, "logit_bias": {str(paris): 100}},
    )
    assert forced.json()["choices"][0]["text"] == " Paris Paris Paris"


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.3, "top_p": 0.5, "seed": 2},
        {"frequency_penalty": 2, "presence_penalty": -2},
        {"extra_body": {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.3}, "temperature": 1},
        {"top_p": 0.0001, "temperature": 2},
        {"logprobs": True, "top_logprobs": 20, "n": 4, "temperature": 1},
        {"metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "store": False},
    ],
    ids=str,
)
async def test_sampling_fields_are_taken_alike_in_a_stream(
    client: openai.AsyncOpenAI, fields: dict[str, Any]
) -> None:
    whole = await ask(client, max_tokens=40, **({"seed": 1} | fields))
    create: Any = client.chat.completions.create
    base = {"model": MODEL, "messages": ASKED, "temperature": 0, "max_tokens": 40, "seed": 1, **LOW}
    said = [""] * len(whole)
    async for chunk in await create(**(base | fields), stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == [choice.message.content or "" for choice in whole]


@pytest.mark.parametrize("count", [1, 30])
async def test_a_least_number_of_tokens_is_kept_to(client: openai.AsyncOpenAI, count: int) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, max_tokens=64, extra_body={"min_tokens": count}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens >= count


async def test_a_json_object_is_one_or_cut(client: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        (choice,) = await ask(
            client,
            response_format={"type": "json_object"},
            temperature=1,
            seed=seed,
            max_tokens=300,
        )
        assert choice.finish_reason in ("stop", "length")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


SHAPES: dict[str, Any] = {
    "text": {"type": "string", "minLength": 1, "maxLength": 12},
    "pattern": {"type": "string", "pattern": "^[A-Z].{0,8}$"},
    "pointer": {"type": "string", "format": "json-pointer"},
    "mail": {"type": "string", "format": "email"},
    "count": {"type": "integer", "minimum": 0, "maximum": 9},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "map": {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2},
    "either": {"anyOf": [{"type": "null"}, {"const": "a<|end|>b"}]},
}


@pytest.mark.parametrize("name", SHAPES)
async def test_held_answers_are_whole_and_fit_or_are_cut(
    client: openai.AsyncOpenAI, name: str
) -> None:
    """At a temperature that tears the small model away from sense, and from the end of an open
    shape."""
    schema = {"type": "object", "properties": {"x": SHAPES[name]}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    whole = 0
    for seed in (0, 4):
        for choice in await ask(
            client, response_format=form, temperature=2, seed=seed, n=4, max_tokens=120
        ):
            assert choice.finish_reason in ("stop", "length")
            if choice.finish_reason == "stop":
                whole += 1
                assert set(json.loads(choice.message.content)) == {"x"}
    assert whole or name == "mail"


async def test_errors_have_a_true_status(http: httpx.AsyncClient) -> None:
    for fields, status in (
        ({"messages": []}, 400),
        ({"model": "another"}, 404),
        ({"max_tokens": 0}, 400),
        ({"logit_bias": {"999999": 1}}, 400),
        ({"messages": [{"role": "user", "content": "word " * 200_000}]}, 400),
    ):
        body = {"model": MODEL, "messages": ASKED, **fields}
        assert (await http.post("chat/completions", json=body)).status_code == status, fields
