"""Anthropic's own client over the replay engine in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolUseBlock

from serving.engines.replay.script import Delay, Die, Echo, Scenario, Script, Tokens
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import CHANNEL, END, MESSAGE, RETURN, START, Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.replaying import replaying

WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris", "days": [1, 2]}')
THINK: Any = {"type": "enabled", "budget_tokens": 1024}


def user(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays, chosen by a word of the prompt."""

    def scenario(word: str, *steps: Any) -> Scenario:
        return Scenario(match=tuple(vocabulary.encode(word)), steps=steps)

    hello = render_completion(
        Assistant(reasoning="A greeting 😀.", content="Hello, wörld 😀!"), vocabulary
    )
    turn = Assistant(reasoning="Look.", content="One moment.", calls=(CALL,))
    header = (CHANNEL, *vocabulary.encode("final"), MESSAGE)
    some = (*header, *vocabulary.encode("some words"))
    echo = Echo(after=(START, *vocabulary.encode("user"), MESSAGE), before=(END,))
    return Script(
        pace_seconds=0.001,
        scenarios=(
            scenario("Rain.", Tokens(ids=tuple(hello))),
            scenario(" rainfall", Tokens(ids=tuple(render_completion(turn, vocabulary)))),
            scenario("murder", Tokens(ids=some), Delay(seconds=0.2), Die()),
            scenario("stillborn", Die()),
            scenario("nonce", Tokens(ids=header), echo, Tokens(ids=(RETURN,))),
            Scenario(steps=(Tokens(ids=tuple(hello)),)),
        ),
    )


@pytest.fixture
async def client(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    """The official client, checking every response against its types."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    async with (
        replaying(replay_engine(make_script(vocabulary))) as (_, url),
        anthropic.AsyncAnthropic(
            base_url=url, api_key="none", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        yield client


async def test_a_conversation(client: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 50, "messages": user("Hi"), "system": "Be kind."}
    answer = await client.messages.create(**asked)
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == "Hello, wörld 😀!"
    assert (answer.stop_reason, answer.model) == ("end_turn", MODEL)
    assert answer._request_id
    again = await client.messages.create(**asked)
    assert (again.usage.cache_read_input_tokens or 0) > 0
    counted = await client.messages.count_tokens(
        model=MODEL, messages=user("Hi"), system="Be kind."
    )
    cached = again.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == again.usage.input_tokens + cached


OPTIONS: list[dict[str, Any]] = [
    {"messages": user("Hi")},
    {"messages": user("Hi"), "thinking": THINK},
    {"messages": user("Hi"), "thinking": {"type": "adaptive", "display": "omitted"}},
    {"messages": user("Hi"), "stop_sequences": ["wör"]},
    {"messages": user("Hi"), "max_tokens": 6},
    {"messages": user("The rainfall"), "tools": [WEATHER]},
    {"messages": user("The rainfall"), "tools": [WEATHER], "thinking": THINK},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
async def test_the_stream_is_the_answer_in_pieces(
    client: anthropic.AsyncAnthropic, options: dict[str, Any]
) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 2000, **options}
    await client.messages.create(**asked)
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    assert contents(streamed) == contents(whole)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.stop_sequence == whole.stop_sequence
    assert streamed.usage.input_tokens == whole.usage.input_tokens
    if whole.stop_sequence is None:
        # Else the engine may be some tokens ahead when the sequence is found.
        assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.cache_read_input_tokens == whole.usage.cache_read_input_tokens


def contents(message: anthropic.types.Message) -> list[dict[str, Any]]:
    return [block.model_dump(exclude={"id"}, exclude_none=True) for block in message.content]


async def test_a_tool_loop(client: anthropic.AsyncAnthropic) -> None:
    messages = user("The rainfall")
    asked: Any = {"model": MODEL, "max_tokens": 2000, "tools": [WEATHER], "thinking": THINK}
    first = await client.messages.create(messages=messages, **asked)
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"city": "Paris", "days": [1, 2]}
    content: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}]
    messages += [first.to_param(), {"role": "user", "content": content}]
    second = await client.messages.create(messages=messages, **asked)
    assert [block.type for block in second.content] == ["thinking", "text"]
    assert second.stop_reason == "end_turn"


async def test_streams_side_by_side_are_not_mixed_up(client: anthropic.AsyncAnthropic) -> None:
    async def ask(number: int) -> None:
        text = f"nonce {number} 🦩"
        async with client.messages.stream(
            model=MODEL, max_tokens=100, messages=user(text)
        ) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == text

    await asyncio.gather(*(ask(number) for number in range(50)))


async def test_errors_arrive_as_the_client_s_own(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as wrong:
        await client.messages.create(model=MODEL, max_tokens=0, messages=user("Hi"))
    assert "max_tokens" in str(wrong.value)
    assert wrong.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="claude", max_tokens=5, messages=user("Hi"))


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(
    client: anthropic.AsyncAnthropic,
) -> None:
    text = ""

    async def read() -> None:
        nonlocal text
        async with client.messages.stream(
            model=MODEL, max_tokens=100, messages=user("murder")
        ) as stream:
            async for piece in stream.text_stream:
                text += piece

    with pytest.raises(anthropic.APIStatusError) as failed:
        await read()
    assert text == "some words"
    body: Any = failed.value.body
    assert body["error"]["type"] == "api_error"


async def test_an_engine_that_dies_before_the_first_token_is_a_503(
    client: anthropic.AsyncAnthropic,
) -> None:
    with pytest.raises(anthropic.InternalServerError) as failed:
        await client.messages.create(
            model=MODEL, max_tokens=100, messages=user("stillborn"), stream=True
        )
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"]
