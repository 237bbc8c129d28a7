"""Items become the turns of a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.errors import ServingError
from serving.harmony.conversation import Assistant, Developer, ToolCall, ToolResult, Turn, User
from serving.protocols.responses.conversation import make_turns
from serving.protocols.responses.items import InputItem, seal, unseal
from serving.protocols.responses.schema import ResponsesRequest
from serving.settings import Limits

ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


def turns_of(*items: dict[str, Any], instructions: str | None = None) -> list[Turn]:
    return list(make_turns([], ITEMS.validate_python(list(items)), instructions))


def thought(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "id": "msg_1", "content": content}


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": name, "name": name, "arguments": "{}"}


def result(name: str) -> dict[str, Any]:
    output = [{"type": "input_text", "text": "out "}, {"type": "input_text", "text": name}]
    return {"type": "function_call_output", "call_id": name, "output": output}


def called(name: str) -> ToolCall:
    return ToolCall(name=name, arguments="{}")


def returned(name: str) -> ToolResult:
    return ToolResult(name=name, text=f"out {name}")


USER = {"role": "user", "content": "Hi"}


def test_a_text_is_a_user_s_turn_after_the_instructions() -> None:
    said = ResponsesRequest.model_validate({"model": "m", "input": "Hi"}, context=Limits())
    assert list(make_turns([], said.items, "Be kind.")) == [
        Developer(instructions="Be kind."),
        User(text="Hi"),
    ]


def test_reasoning_and_text_before_a_call_are_one_turn_with_it() -> None:
    assert turns_of(USER, thought("a"), said("b"), thought("c"), call("f"), result("f")) == [
        User(text="Hi"),
        Assistant(reasoning="a\n\nc", content="b", calls=(called("f"),)),
        returned("f"),
    ]


def test_calls_side_by_side_are_one_turn_and_calls_one_after_another_are_two() -> None:
    assert turns_of(call("f"), call("g"), result("f"), result("g")) == [
        Assistant(calls=(called("f"), called("g"))),
        returned("f"),
        returned("g"),
    ]
    assert turns_of(call("f"), thought("a"), call("g")) == [
        Assistant(calls=(called("f"),)),
        Assistant(reasoning="a", calls=(called("g"),)),
    ]


def test_answers_one_after_another_stay_apart() -> None:
    assert turns_of(thought("a"), said("b"), said("c"), thought("d")) == [
        Assistant(reasoning="a", content="b"),
        Assistant(content="c"),
        Assistant(reasoning="d"),
    ]


def test_the_output_of_no_call_is_refused_by_its_place_in_the_request() -> None:
    earlier = ITEMS.validate_python([USER, call("f")])
    with pytest.raises(ServingError) as refused:
        list(make_turns(earlier, ITEMS.validate_python([result("f"), result("g")]), None))
    assert refused.value.param == "input[1].call_id"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "summary": [], "encrypted_content": seal("Hm 😀")},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm 😀"}]},
        {**thought("Hm 😀"), "encrypted_content": None},
    ],
)
def test_reasoning_is_read_from_whichever_field_has_it(item: dict[str, Any]) -> None:
    assert turns_of(item) == [Assistant(reasoning="Hm 😀")]


@pytest.mark.parametrize("sealed", ["é", "abc", "/w==", "a b"])
def test_what_this_service_has_not_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(ValueError, match="sealed"):
        unseal(sealed)
    with pytest.raises(ValidationError):
        turns_of({"type": "reasoning", "summary": [], "encrypted_content": sealed})
