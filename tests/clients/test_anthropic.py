"""Anthropic's package."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


WEATHER: Any = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: Any = {"role": "user", "content": "Tell me of the rainfall in Paris"}


@pytest.fixture
def client(url: str) -> anthropic.Anthropic:
    """The client."""
    return anthropic.Anthropic(base_url=url, api_key="none")


def test_an_answer_with_its_thinking(client: anthropic.Anthropic, model: str) -> None:
    answer = client.messages.create(
        model=model,
        max_tokens=2000,
        messages=[{"role": "user", "content": "Hi"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    thought, said = answer.content
    assert thought.type == "thinking"
    assert thought.thinking == "A greeting."
    assert said.type == "text"
    assert said.text == "Hello, wörld 😀!"


def test_a_stream(client: anthropic.Anthropic, model: str) -> None:
    with client.messages.stream(
        model=model, max_tokens=100, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        assert "".join(stream.text_stream) == "Hello, wörld 😀!"
        assert stream.get_final_message().stop_reason == "end_turn"


def test_a_tool_is_called_and_its_result_read(client: anthropic.Anthropic, model: str) -> None:
    asked = client.messages.create(model=model, max_tokens=100, messages=[ASKED], tools=[WEATHER])
    call = asked.content[-1]
    assert asked.stop_reason == "tool_use"
    assert call.type == "tool_use"
    assert call.input == {"city": "Paris"}
    result: Any = {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees Celsius"}
        ],
    }
    spoken: Any = {"role": "assistant", "content": asked.content}
    answer = client.messages.create(
        model=model, max_tokens=100, messages=[ASKED, spoken, result], tools=[WEATHER]
    )
    assert answer.content[-1].type == "text"
    assert answer.content[-1].text == "It is 18 degrees in Paris."


def test_an_answer_has_a_type(client: anthropic.Anthropic, model: str) -> None:
    answer = client.messages.parse(
        model=model,
        max_tokens=100,
        messages=[{"role": "user", "content": "Who?"}],
        output_format=Person,
    )
    assert answer.parsed_output == Person(name="Ada", age=36)


def test_tokens_are_counted(client: anthropic.Anthropic, model: str) -> None:
    counted = client.messages.count_tokens(model=model, messages=[ASKED])
    assert counted.input_tokens > 10
