"""Completions of raw text and token ids, with log-probabilities, by the embedded runtime."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import openai
import pytest

from tests.development import MODEL

TEXT = "What is the capital of France? 🦩 It is"
PROMPTS: dict[str, Any] = {
    "a text": TEXT,
    "one token": "Hello",
    "two tokens": "Hello there",
    "several": ["One two three", "four 🦩", "five"],
    "ids": [200005, 13225, 11, 2375],
}
CHOICES, TOKENS, TOP = (1, 2), (1, 12), (0, 3)


async def ids_of(http: httpx.AsyncClient, prompt: Any) -> list[list[int]]:
    """Returns the token ids of each prompt, as the service itself tells them."""
    if isinstance(prompt, list) and isinstance(prompt[0], int):
        return [prompt]
    texts = prompt if isinstance(prompt, list) else [prompt]
    answers = [await http.post("tokenize", json={"model": MODEL, "prompt": one}) for one in texts]
    return [answer.json()["tokens"] for answer in answers]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
async def test_an_echoed_prompt_is_scored_whole_and_in_a_stream(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, prompt: Any
) -> None:
    ids = await ids_of(http, prompt)
    for n, max_tokens, top in itertools.product(CHOICES, TOKENS, TOP):
        fields: dict[str, Any] = {
            "model": MODEL,
            "prompt": prompt,
            "n": n,
            "echo": True,
            "logprobs": top,
            "max_tokens": max_tokens,
            "seed": 5,
            "extra_body": {"ignore_eos": True},
        }
        whole = await client.completions.create(**fields)
        assert len(whole.choices) == len(ids) * n
        for choice in whole.choices:
            of_prompt = len(ids[choice.index // n])
            found = choice.logprobs
            assert found is not None
            assert found.tokens is not None
            assert found.token_logprobs is not None
            assert found.top_logprobs is not None
            # Control tokens of the answer are not in its text.
            assert of_prompt <= len(found.tokens) <= of_prompt + max_tokens
            assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs)
            assert found.token_logprobs[0] is None
            assert all(one is not None and one <= 0 for one in found.token_logprobs[1:])
            assert all(len(tops) in (top, top + 1) for tops in found.top_logprobs[1:])

        texts = [""] * len(whole.choices)
        lists: list[dict[str, list[Any]]] = [{} for _ in whole.choices]
        async for chunk in await client.completions.create(**fields, stream=True):
            for part in chunk.choices:
                texts[part.index] += part.text
                if part.logprobs is not None:
                    for name, values in part.logprobs.model_dump().items():
                        lists[part.index].setdefault(name, []).extend(values)
        assert texts == [choice.text for choice in whole.choices]
        for got, choice in zip(lists, whole.choices, strict=True):
            assert choice.logprobs is not None
            expected = choice.logprobs.model_dump()
            assert got["tokens"] == expected["tokens"]
            assert got["text_offset"] == expected["text_offset"]
            assert got["token_logprobs"][1:] == pytest.approx(expected["token_logprobs"][1:])


async def test_what_was_generated_has_the_same_scores_as_a_prompt(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.completions.create(
        model=MODEL, prompt=TEXT, max_tokens=10, logprobs=0, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    first = made.choices[0]
    again = await client.completions.create(
        model=MODEL, prompt=TEXT + first.text, max_tokens=1, logprobs=0, echo=True
    )
    scored = again.choices[0].logprobs
    assert first.logprobs is not None
    assert scored is not None
    assert first.logprobs.tokens is not None
    assert scored.tokens is not None
    start = len(scored.tokens) - 1 - len(first.logprobs.tokens)
    if scored.tokens[start:-1] == first.logprobs.tokens:  # the text may encode otherwise
        assert (scored.token_logprobs or [])[start:-1] == pytest.approx(
            first.logprobs.token_logprobs, abs=0.05
        )


async def test_echo_without_scores_and_stop_strings(client: openai.AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": MODEL, "prompt": TEXT, "max_tokens": 12, "temperature": 0}
    plain = (await client.completions.create(**fields)).choices[0].text
    echoed = (await client.completions.create(**fields, echo=True)).choices[0].text
    assert echoed == TEXT + plain
    stop = plain[len(plain) // 2 :][:3] or plain
    cut = (await client.completions.create(**fields, stop=stop)).choices[0]
    assert cut.text == plain[: plain.index(stop)]
    assert cut.finish_reason == "stop"


async def test_a_control_token_as_an_id_is_one_and_in_a_text_is_text(
    http: httpx.AsyncClient,
) -> None:
    spelled = (await ids_of(http, "<|start|>"))[0]
    assert max(spelled) < 199_998
    back = await http.post("detokenize", json={"model": MODEL, "tokens": [200006, *spelled]})
    assert back.json()["prompt"] == "<|start|><|start|>"
