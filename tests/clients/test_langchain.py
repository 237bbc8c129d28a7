"""LangChain's ChatOpenAI, over Chat Completions and over Responses."""

from __future__ import annotations

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr


class Person(BaseModel):
    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Tells the weather."""
    return "18 degrees Celsius"


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def chat(request: pytest.FixtureRequest, base_url: str, model: str) -> ChatOpenAI:
    """The client."""
    return ChatOpenAI(
        base_url=base_url,
        api_key=SecretStr("none"),
        model=model,
        use_responses_api=request.param,
    )


def test_an_answer(chat: ChatOpenAI) -> None:
    answer = chat.invoke("Hi")
    assert answer.text == "Hello, wörld 😀!"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_a_stream(chat: ChatOpenAI) -> None:
    assert "".join(chunk.text for chunk in chat.stream("Hi")) == "Hello, wörld 😀!"


def test_a_tool_is_called_and_its_result_read(chat: ChatOpenAI) -> None:
    armed = chat.bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage("Tell me of the rainfall in Paris")]
    asked = armed.invoke(messages)
    assert [call["args"] for call in asked.tool_calls] == [{"city": "Paris"}]
    result = get_weather.invoke(asked.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert armed.invoke([*messages, asked, result]).text == "It is 18 degrees in Paris."


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_has_a_type(chat: ChatOpenAI, method: str) -> None:
    held = chat.with_structured_output(Person, method=method)  # type: ignore[arg-type]
    assert held.invoke("Who?") == Person(name="Ada", age=36)


def test_raw_text_is_continued(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key=SecretStr("none"), model=model, max_tokens=50)
    assert "wörld" in client.invoke("Once")
