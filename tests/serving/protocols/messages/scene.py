"""Requests to Anthropic's Messages, and what the model says to them, for tests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.edge.server import MODEL, Api

ADDRESS = "/v1/messages"
THINK = {"type": "adaptive"}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USER = {"role": "user", "content": "Hello"}
CALLED = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "Ask the tool.", "signature": "unsigned"},
        {"type": "text", "text": "One moment."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
    ],
}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [USER], **fields}


def ask(api: Api, **fields: Any) -> asyncio.Task[httpx.Response]:
    """Begins a request; `fields` come on top of a simple one."""
    return asyncio.create_task(api.client.post(ADDRESS, json=body_of(**fields)))


def answer(vocabulary: Vocabulary, text: str, reasoning: str | None = "Hm.") -> list[int]:
    return render_completion(Assistant(reasoning=reasoning, content=text), vocabulary)


def weather_call(vocabulary: Vocabulary, arguments: str = '{"city":"Paris"}') -> list[int]:
    call = ToolCall(name="get_weather", arguments=arguments)
    turn = Assistant(reasoning="Ask.", content="One moment.", calls=(call,))
    return render_completion(turn, vocabulary)


def events_of(text: str) -> list[dict[str, Any]]:
    """Returns the events of a stream; each is named as its data says."""
    events: list[dict[str, Any]] = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events
