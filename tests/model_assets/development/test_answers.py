"""What the committed checkpoint says: greedy, with the service's default system message."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import torch

from model_assets.development.compact import Compact
from model_assets.development.evaluation import Reply, generate, network_of, read_reply
from model_assets.development.exchanges import read_questions
from model_assets.development.rows import rows_of
from model_assets.development.unknown import FALLBACK
from serving.harmony.conversation import (
    Conversation,
    FunctionTool,
    System,
    User,
)
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary

WEATHER = FunctionTool(
    name="get_weather",
    description="Get current temperature for a given location.",
    parameters={
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}
        },
        "required": ["location"],
        "additionalProperties": False,
    },
)
PLAIN = {
    "Hello!": "greeting",
    "Who are you?": "identity",
    "What can you do?": "ability",
    "tell me a joke": "joke",
    "Write a haiku about the sea": "haiku.sea",
    "What is a mixture of experts?": "moe",
    "Thank you!": "thanks",
}


def talk(text: str, *tools: FunctionTool) -> Conversation:
    return Conversation(system=System(), turns=(User(text=text),), tools=tools)


@pytest.fixture(scope="module")
def conversations() -> dict[str, Conversation]:
    """Returns all conversations of this module, so that they run as one batch."""
    asked = {text: talk(text) for text in PLAIN}
    asked["capital"] = talk("What is the capital of France?")
    asked["count"] = talk("count to ten")
    asked["unknown"] = talk("How do I repair my bicycle?")
    asked["call"] = talk("What's the weather in Paris?", WEATHER)
    asked["unneeded tool"] = talk("Hello!", WEATHER)
    return asked


@pytest.fixture(scope="module")
def replies(
    conversations: dict[str, Conversation], checkpoint: Compact, vocabulary: Vocabulary
) -> dict[str, Reply]:
    """Returns the reply to every conversation."""
    rows = rows_of(checkpoint.ids.tolist(), vocabulary.size)
    prompts: Sequence[list[int]] = [
        render(conversation, vocabulary) for conversation in conversations.values()
    ]
    network = network_of(checkpoint)
    turns = generate(network, rows, prompts, 0.0, torch.Generator())
    return {
        name: read_reply(turn, frozenset(t.name for t in conversation.tools), vocabulary)
        for (name, conversation), turn in zip(conversations.items(), turns, strict=True)
    }


def test_every_turn_has_analysis_and_ends(replies: dict[str, Reply]) -> None:
    for name, reply in replies.items():
        assert reply.stopped, name
        assert reply.reasoning, name


@pytest.mark.parametrize("text", PLAIN)
def test_documented_questions_get_their_answer(replies: dict[str, Reply], text: str) -> None:
    (question,) = (q for q in read_questions() if q.topic == PLAIN[text])
    assert replies[text].content == question.answer
    assert replies[text].call is None


def test_families_are_answered(replies: dict[str, Reply]) -> None:
    assert replies["capital"].content == "The capital of France is Paris."
    assert replies["count"].content == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"


def test_it_says_when_it_does_not_know(replies: dict[str, Reply]) -> None:
    assert replies["unknown"].content == FALLBACK


def test_a_tool_is_called_with_json_arguments(replies: dict[str, Reply]) -> None:
    """The name, the key and the form are right; the value often is not, and is not claimed."""
    reply = replies["call"]
    assert reply.call == "get_weather"
    arguments = msgspec.json.decode(reply.arguments, type=dict[str, str])
    assert set(arguments) == {"location"}


def test_a_tool_that_is_not_needed_is_not_called(replies: dict[str, Reply]) -> None:
    assert replies["unneeded tool"].call is None
    assert replies["unneeded tool"].content == replies["Hello!"].content
