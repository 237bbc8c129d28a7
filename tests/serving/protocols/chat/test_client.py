"""The official client against the real process boundary: the replay engine in its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from starlette.applications import Starlette

from serving.boundary.lifecycle import EngineState
from serving.boundary.supervisor import Supervisor
from serving.engines.replay.script import Delay, Die, Echo, Scenario, Script, Tokens
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import CHANNEL, END, MESSAGE, RETURN, START, Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL, until, until_ready
from tests.serving.protocols.replaying import replaying

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}')


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays, chosen by a word of the prompt."""

    def scenario(word: str, *steps: Any) -> Scenario:
        return Scenario(match=tuple(vocabulary.encode(word)), steps=steps)

    hello = render_completion(
        Assistant(reasoning="A greeting 😀.", content="Hello, wörld 😀!"), vocabulary
    )
    call = render_completion(Assistant(reasoning="Look.", calls=(CALL,)), vocabulary)
    header = (CHANNEL, *vocabulary.encode("final"), MESSAGE)
    some = (*header, *vocabulary.encode("some words"))
    echo = Echo(after=(START, *vocabulary.encode("user"), MESSAGE), before=(END,))
    return Script(
        pace_seconds=0.001,
        scenarios=(
            scenario(" rainfall", Tokens(ids=tuple(call))),
            scenario("murder", Tokens(ids=some), Delay(seconds=0.2), Die()),
            scenario("stillborn", Die()),
            scenario("nonce", Tokens(ids=header), echo, Tokens(ids=(RETURN,))),
            Scenario(steps=(Tokens(ids=tuple(hello)),)),
        ),
    )


@pytest.fixture
async def service(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Starlette, str]]:
    """A ready app over a replay engine, and its URL."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    async with replaying(replay_engine(make_script(vocabulary))) as running:
        yield running


@pytest.fixture
async def client(service: tuple[Starlette, str]) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, checking every response against its types."""
    async with openai.AsyncOpenAI(
        base_url=f"{service[1]}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


async def test_a_conversation(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=user("Hi"), seed=1)
    message = answer.choices[0].message
    assert message.content == "Hello, wörld 😀!"
    assert message.model_extra is not None
    assert message.model_extra["reasoning"] == "A greeting 😀."
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    again = await client.chat.completions.create(model=MODEL, messages=user("Hi"), seed=1)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0


async def test_the_stream_is_the_answer_in_pieces(client: openai.AsyncOpenAI) -> None:
    for choices in (1, 3):
        whole = await client.chat.completions.create(
            model=MODEL, messages=user("Hi"), n=choices, logprobs=True, top_logprobs=2
        )
        contents = [""] * choices
        tokens: list[list[str]] = [[] for _ in range(choices)]
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=user("Hi"),
            n=choices,
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                contents[choice.index] += choice.delta.content or ""
                if choice.logprobs is not None:
                    tokens[choice.index] += [e.token for e in choice.logprobs.content or ()]
        assert contents == [choice.message.content for choice in whole.choices]
        for answer, streamed in zip(whole.choices, tokens, strict=True):
            assert answer.logprobs is not None
            assert [entry.token for entry in answer.logprobs.content or ()] == streamed
        assert usage is not None
        assert whole.usage is not None
        assert usage.completion_tokens == whole.usage.completion_tokens


async def test_the_stream_helper_assembles_a_tool_call(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model=MODEL, messages=user("Tell me the rainfall"), tools=[WEATHER]
    ) as stream:
        final = await stream.get_final_completion()
    choice = final.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == (CALL.name, CALL.arguments)


async def test_a_tool_s_result_goes_back_by_its_id(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(
        model=MODEL, messages=user("Tell me the rainfall"), tools=[WEATHER]
    )
    message = first.choices[0].message
    (call,) = message.tool_calls or []
    messages: Any = [
        {"role": "user", "content": "Hi"},
        message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    second = await client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert second.choices[0].finish_reason == "stop"


async def test_the_blocking_client_works_too(service: tuple[Starlette, str]) -> None:
    def talk() -> str:
        with openai.OpenAI(base_url=f"{service[1]}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model=MODEL, messages=user("Hi"), stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(talk) == "Hello, wörld 😀!"


async def test_errors_arrive_as_the_client_s_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model=MODEL, messages=user("Hi"), temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-5", messages=user("Hi"))
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id is not None


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_streams_side_by_side_are_not_mixed_up(client: openai.AsyncOpenAI) -> None:
    async def ask(number: int) -> None:
        text = f"nonce {number} 🦩"
        stream = await client.chat.completions.create(model=MODEL, messages=user(text), stream=True)
        answer = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert answer == text

    await asyncio.gather(*(ask(number) for number in range(100)))


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=user("murder"), stream=True)
    content = ""

    async def read() -> None:
        nonlocal content
        async for chunk in stream:
            content += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert content == "some words"
    assert failed.value.code == "engine_unavailable"


async def test_an_engine_that_dies_before_the_first_token_is_a_503(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model=MODEL, messages=user("stillborn"), stream=True)
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"]


async def test_a_killed_engine_is_noticed_replaced_and_serves_again(
    service: tuple[Starlette, str], client: openai.AsyncOpenAI
) -> None:
    state = service[0].state.service
    supervisor = state.backend().pipeline.engine
    assert isinstance(supervisor, Supervisor)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    killed = time.monotonic()
    await until(lambda: not state.ready)
    assert time.monotonic() - killed < 2
    await until_ready(state)
    answer = await client.chat.completions.create(model=MODEL, messages=user("Hi"))
    assert answer.choices[0].message.content == "Hello, wörld 😀!"
    assert supervisor.restarts == 1


async def test_no_engine_process_is_left_behind(
    replay_engine: ReplayEngine, vocabulary: Vocabulary
) -> None:
    async with replaying(replay_engine(make_script(vocabulary))) as (app, _):
        supervisor = app.state.service.backend().pipeline.engine
        pid = supervisor.pid
    assert supervisor.state is EngineState.STOPPED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
