"""LlamaIndex's OpenAILike."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def get_weather(city: str) -> str:
    """Tells the weather."""
    return "18 degrees Celsius"


@pytest.fixture
def llm(base_url: str, model: str) -> OpenAILike:
    """The client."""
    return OpenAILike(
        model=model,
        api_base=base_url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=131_072,
    )


def user(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=text)


def test_an_answer(llm: OpenAILike) -> None:
    assert llm.chat([user("Hi")]).message.content == "Hello, wörld 😀!"


def test_a_stream(llm: OpenAILike) -> None:
    pieces = [answer.delta or "" for answer in llm.stream_chat([user("Hi")])]
    assert "".join(pieces) == "Hello, wörld 😀!"


def test_a_tool_is_called_and_its_result_read(llm: OpenAILike) -> None:
    tool = FunctionTool.from_defaults(get_weather)
    history = [user("Tell me of the rainfall in Paris")]
    asked = llm.chat_with_tools([tool], chat_history=history)
    calls = llm.get_tool_calls_from_response(asked)
    assert [call.tool_kwargs for call in calls] == [{"city": "Paris"}]
    result = ChatMessage(
        role=MessageRole.TOOL,
        content=str(tool(**calls[0].tool_kwargs)),
        additional_kwargs={"tool_call_id": calls[0].tool_id},
    )
    answer = llm.chat_with_tools([tool], chat_history=[*history, asked.message, result])
    assert answer.message.content == "It is 18 degrees in Paris."


def test_an_answer_has_a_type(llm: OpenAILike) -> None:
    assert llm.structured_predict(Person, PromptTemplate("Who?")) == Person(name="Ada", age=36)
