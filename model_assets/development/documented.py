"""What the stand-in is documented to do, as examples: questions, sums, and calls of tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from model_assets.development.conversations import Example
from model_assets.development.exchanges import read_questions
from model_assets.development.offers import arguments_text
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    FunctionTool,
    System,
    ToolCall,
    User,
)

REQUESTS_PATH: Final = Path(__file__).with_name("requests.yaml")
LARGEST_TERM: Final = 12


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool as a client defines it; `name` where several have the same."""

    description: str
    parameters: dict[str, Any]
    name: str | None = None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user says, the tools that are offered, and the call that is due."""

    ask: str
    tools: tuple[str, ...]
    call: str
    arguments: dict[str, Any]


class Requests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of requests."""

    tools: dict[str, Definition]
    requests: tuple[Request, ...]

    def example(self, request: Request) -> Example:
        """Returns the conversation that the request begins, and the call."""
        tools = (
            FunctionTool(
                name=self.tools[key].name or key,
                description=self.tools[key].description,
                parameters=self.tools[key].parameters,
            )
            for key in request.tools
        )
        call = ToolCall(name=request.call, arguments=arguments_text(request.arguments))
        return _example(request.ask, Assistant(calls=(call,)), "documented request", *tools)


def read_requests(path: Path = REQUESTS_PATH) -> Requests:
    """Returns the documented requests."""
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Requests)


def documented() -> list[Example]:
    """Returns every documented question in its first wording, every sum, and every request."""
    questions = [
        _example(question.ask[0], Assistant(content=question.answer), "documented question")
        for question in read_questions()
    ]
    requests = read_requests()
    return [*questions, *sums(), *map(requests.example, requests.requests)]


def sums() -> list[Example]:
    """Returns all sums, differences that are not negative, and products of small numbers."""
    numbers = range(LARGEST_TERM + 1)
    values = {
        f"{a} {sign} {b}": value
        for a in numbers
        for b in numbers
        for sign, value in (("+", a + b), ("-", a - b), ("*", a * b))
        if value >= 0
    }
    return [
        _example(f"What is {terms}?", Assistant(content=f"{terms} = {value}"), "documented sum")
        for terms, value in values.items()
    ]


def _example(ask: str, answer: Assistant, kind: str, *tools: FunctionTool) -> Example:
    conversation = Conversation(system=System(), turns=(User(text=ask),), tools=tools)
    return Example(conversation, answer, kind)
