"""LiteLLM as a client."""

from __future__ import annotations

from typing import Any

import litellm
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def common(base_url: str, model: str) -> dict[str, Any]:
    """The fields of every request."""
    return {"model": f"openai/{model}", "api_base": base_url, "api_key": "none"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_an_answer_with_its_reasoning(common: dict[str, Any]) -> None:
    message = litellm.completion(**common, messages=[user("Hi")]).choices[0].message
    assert message.content == "Hello, wörld 😀!"
    assert message.reasoning_content == "A greeting."


async def test_a_stream(common: dict[str, Any]) -> None:
    stream = await litellm.acompletion(**common, messages=[user("Hi")], stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == "Hello, wörld 😀!"


def test_a_tool_is_called_and_its_result_read(common: dict[str, Any]) -> None:
    messages: list[Any] = [user("Tell me of the rainfall in Paris")]
    asked = litellm.completion(**common, messages=messages, tools=[WEATHER]).choices[0].message
    assert asked.tool_calls[0].function.arguments == '{"city": "Paris"}'
    result = {
        "role": "tool",
        "tool_call_id": asked.tool_calls[0].id,
        "content": "18 degrees Celsius",
    }
    messages += [asked, result]
    answer = litellm.completion(**common, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "It is 18 degrees in Paris."


def test_an_answer_has_a_type(common: dict[str, Any]) -> None:
    answer = litellm.completion(**common, messages=[user("Who?")], response_format=Person)
    assert Person.model_validate_json(answer.choices[0].message.content) == Person(
        name="Ada", age=36
    )


def test_a_response(common: dict[str, Any]) -> None:
    answer = litellm.responses(**common, input="Hi")
    assert answer.output[-1].content[0].text == "Hello, wörld 😀!"
