"""Echoed prompts with log-probabilities, over the replay engine in its own process."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from serving.engines.replay.script import Scenario, Script, Tokens
from serving.harmony.vocabulary import CHANNEL, END_OF_TEXT, Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.replaying import replaying

ANSWER = " and 🦩 so on"


@pytest.fixture
async def client(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client of an engine that always says the same."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    ids = (*vocabulary.encode(ANSWER), END_OF_TEXT)
    script = Script(scenarios=(Scenario(steps=(Tokens(ids=ids),)),))
    async with (
        replaying(replay_engine(script)) as (_, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


PROMPTS: dict[str, Any] = {
    "a text": "Grüße 🦩, again and again",
    "one token": "Hello",
    "several": ["one", "two 🦩", "three four"],
    "ids": [CHANNEL, 13225, 11, 2375],
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("n", [1, 2])
async def test_the_prompt_s_tokens_come_first_in_the_answer_and_in_the_stream(
    client: openai.AsyncOpenAI, vocabulary: Vocabulary, prompt: Any, n: int
) -> None:
    fields: dict[str, Any] = {"model": MODEL, "prompt": prompt, "n": n, "echo": True, "logprobs": 2}
    whole = await client.completions.create(**fields)
    prompts = prompt if isinstance(prompt, list) and isinstance(prompt[0], str) else [prompt]
    assert len(whole.choices) == len(prompts) * n
    for choice in whole.choices:
        one = prompts[choice.index // n]
        ids = vocabulary.encode(one) if isinstance(one, str) else one
        text = vocabulary.decode(ids)
        assert choice.text == text + ANSWER
        found = choice.logprobs
        assert found is not None
        assert found.tokens
        assert found.token_logprobs
        assert found.top_logprobs
        assert found.text_offset
        answered = len(vocabulary.encode(ANSWER))
        assert len(found.tokens) == len(ids) + answered
        first, *others = found.token_logprobs
        assert first is None
        assert found.top_logprobs[0] is None
        assert others == pytest.approx([-math.log(2)] * (len(ids) - 1 + answered))
        assert all(len(top) == 2 for top in found.top_logprobs[1:])
        assert found.text_offset[0] == 0
        assert found.text_offset[len(ids)] == len(text)
        assert found.text_offset == sorted(found.text_offset)

    texts = [""] * len(whole.choices)
    lists: list[dict[str, list[Any]]] = [{} for _ in whole.choices]
    async for chunk in await client.completions.create(**fields, stream=True):
        for part in chunk.choices:
            texts[part.index] += part.text
            if part.logprobs is not None:
                for name, values in part.logprobs.model_dump().items():
                    lists[part.index].setdefault(name, []).extend(values)
    assert texts == [choice.text for choice in whole.choices]
    assert lists == [choice.logprobs.model_dump() for choice in whole.choices if choice.logprobs]
