"""OpenAI's Agents SDK, over Responses and over Chat Completions."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest
from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

set_tracing_disabled(True)


class Person(BaseModel):
    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather."""
    assert city == "Paris"
    return "18 degrees Celsius"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def agent(request: pytest.FixtureRequest, base_url: str, model: str) -> Callable[..., Agent[None]]:
    """Returns a function that makes an agent."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none")
    spoken: Model = request.param(model=model, openai_client=client)
    return lambda **fields: Agent(name="Guide", instructions="Help.", model=spoken, **fields)


async def test_an_answer(agent: Callable[..., Agent[None]]) -> None:
    assert (await Runner.run(agent(), "Hi")).final_output == "Hello, wörld 😀!"


async def test_a_stream(agent: Callable[..., Agent[None]]) -> None:
    running = Runner.run_streamed(agent(), "Hi")
    deltas = [
        event.data.delta
        async for event in running.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == running.final_output == "Hello, wörld 😀!"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_called_and_its_result_read(
    agent: Callable[..., Agent[None]], streamed: bool
) -> None:
    guide = agent(tools=[get_weather])
    if streamed:
        running = Runner.run_streamed(guide, "Tell me of the rainfall in Paris")
        async for _ in running.stream_events():
            pass
        assert running.final_output == "It is 18 degrees in Paris."
    else:
        done = await Runner.run(guide, "Tell me of the rainfall in Paris")
        assert done.final_output == "It is 18 degrees in Paris."


async def test_an_answer_has_a_type(agent: Callable[..., Agent[None]]) -> None:
    done = await Runner.run(agent(output_type=Person), "Who?")
    assert done.final_output == Person(name="Ada", age=36)
