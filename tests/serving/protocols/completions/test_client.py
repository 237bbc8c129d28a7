"""The official client's completions over the replay engine in its own process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from serving.engines.replay.script import Delay, Die, Echo, Scenario, Script, Tokens
from serving.harmony.vocabulary import END_OF_TEXT, Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.replaying import replaying


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays: it says the prompt again, or dies of it."""
    some = tuple(vocabulary.encode("some words"))
    steps: Any = (Tokens(ids=some), Delay(seconds=0.2), Die())
    echo: Any = (Echo(), Tokens(ids=(END_OF_TEXT,)))
    return Script(
        pace_seconds=0.001,
        scenarios=(
            Scenario(match=tuple(vocabulary.encode("murder")), steps=steps),
            Scenario(steps=echo),
        ),
    )


@pytest.fixture
async def client(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    async with (
        replaying(replay_engine(make_script(vocabulary))) as (_, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


PROMPTS: list[Any] = [
    "Grüße 😀, again and again",
    ["one", "two 🦩", "three"],
    [13225, 11, 2375],
    [[13225], [11, 2375]],
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
@pytest.mark.parametrize("options", [{}, {"logprobs": 1}, {"echo": True}, {"n": 3}], ids=repr)
async def test_the_stream_is_the_answer_in_pieces(
    client: openai.AsyncOpenAI, prompt: Any, options: dict[str, Any]
) -> None:
    # The types have no null for a chunk's finish reason, which OpenAI sends too: strict for this.
    strict = client.copy(_extra_kwargs={"_strict_response_validation": True})
    whole = await strict.completions.create(model=MODEL, prompt=prompt, max_tokens=50, **options)
    stream = await client.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
        **options,
    )
    texts = [""] * len(whole.choices)
    tokens: list[list[str]] = [[] for _ in whole.choices]
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                tokens[choice.index] += choice.logprobs.tokens or []
    assert texts == [choice.text for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    for found, choice in zip(tokens, whole.choices, strict=True):
        expected = (choice.logprobs.tokens or []) if choice.logprobs else []
        assert found == expected
        assert bool(expected) == ("logprobs" in options)


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.completions.create(model=MODEL, prompt="murder", stream=True)
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in stream:
            text += chunk.choices[0].text

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert text == "some words"
    assert failed.value.code == "engine_unavailable"


async def test_errors_arrive_as_the_client_s_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.completions.create(model=MODEL, prompt="x", suffix="y")
    assert wrong.value.param == "suffix"
