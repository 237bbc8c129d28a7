"""Pydantic AI, over Chat Completions, Responses and Anthropic's Messages."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import AsyncAnthropic
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(params=["chat", "responses", "messages"])
def spoken(request: pytest.FixtureRequest, url: str, base_url: str, model: str) -> Model:
    """The model, spoken to in one of the protocols."""
    if request.param == "messages":
        client = AsyncAnthropic(base_url=url, api_key="none")
        provider = AnthropicProvider(anthropic_client=client)
        able: Any = {"supports_json_schema_output": True}  # it knows this of names, not of ours
        return AnthropicModel(model, provider=provider, profile=able)
    spoken_by = OpenAIProvider(base_url=base_url, api_key="none")
    if request.param == "chat":
        return OpenAIChatModel(model, provider=spoken_by)
    return OpenAIResponsesModel(model, provider=spoken_by)


async def test_an_answer(spoken: Model) -> None:
    assert (await Agent(spoken).run("Hi")).output == "Hello, wörld 😀!"


async def test_a_stream(spoken: Model) -> None:
    async with Agent(spoken).run_stream("Hi") as running:
        pieces = [piece async for piece in running.stream_text(delta=True)]
    assert "".join(pieces) == "Hello, wörld 😀!"


async def test_a_tool_is_called_and_its_result_read(spoken: Model) -> None:
    agent = Agent(spoken)
    asked: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather."""
        asked.append(city)
        return "18 degrees Celsius"

    done = await agent.run("Tell me of the rainfall in Paris")
    assert done.output == "It is 18 degrees in Paris."
    assert asked == ["Paris"]


@pytest.mark.parametrize("form", [NativeOutput(Person), ToolOutput(Person, name="Person")])
async def test_an_answer_has_a_type(spoken: Model, form: Any) -> None:
    done = await Agent(spoken, output_type=form).run("Who?")
    assert done.output == Person(name="Ada", age=36)
