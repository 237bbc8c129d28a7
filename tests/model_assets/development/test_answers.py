"""What the committed checkpoint says: greedy, with the service's default system message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
import torch

from model_assets.development.compact import Compact
from model_assets.development.conversations import NO_TOOL, Example
from model_assets.development.documented import documented, read_requests, sums
from model_assets.development.evaluation import Reply, generate, network_of, read_reply
from model_assets.development.recipe import REPORT, TrainingReport
from model_assets.development.rows import rows_of
from model_assets.development.unknown import FALLBACK
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    FunctionTool,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary

Ask = Callable[[Sequence[Conversation]], list[Reply]]
QUESTIONS_RIGHT = 75
REQUESTS_RIGHT = 33
REQUESTS_FORMED = 41
SUMS_RIGHT = 40
EVERY_NTH_SUM = 9
STRAYS = 2
OFF_SCRIPT = (
    "How do I repair my bicycle?",
    "asdf qwer zxcv",
    "Who won the world cup in 1998?",
    "Write me a Rust program that sorts a list of numbers",
    "Please summarise: The quick brown fox jumps over the lazy dog. The dog sleeps.",
    "日本語を話せますか",
    "SELECT * FROM users;",
    "😀",
)
PIRATE = Developer(instructions="You are a pirate who loves treasure. End every sentence with arr.")


def tool(key: str) -> FunctionTool:
    """Returns a tool of the documented requests."""
    definition = read_requests().tools[key]
    return FunctionTool(
        name=definition.name or key,
        description=definition.description,
        parameters=definition.parameters,
    )


def talk(*turns: Turn, tools: Sequence[FunctionTool] = ()) -> Conversation:
    return Conversation(system=System(), turns=turns, tools=tuple(tools))


def after(key: str, ask: str, arguments: str, result: str) -> Conversation:
    """Returns a conversation in which a tool has answered."""
    used = tool(key)
    call = Assistant(calls=(ToolCall(name=used.name, arguments=arguments),))
    return talk(User(text=ask), call, ToolResult(name=used.name, text=result), tools=(used,))


def is_right(example: Example, reply: Reply) -> bool:
    if not example.answer.calls:
        return reply.stopped and reply.call is None and reply.content == example.answer.content
    (call,) = example.answer.calls
    return reply.stopped and (reply.call, reply.arguments) == (call.name, call.arguments)


@pytest.fixture(scope="module")
def ask(checkpoint: Compact, vocabulary: Vocabulary) -> Ask:
    """Returns a function from conversations to the checkpoint's replies."""
    rows = rows_of(checkpoint.ids.tolist(), vocabulary.size)
    network = network_of(checkpoint)
    threads = torch.get_num_threads()

    def replies(conversations: Sequence[Conversation]) -> list[Reply]:
        prompts = [render(conversation, vocabulary) for conversation in conversations]
        torch.set_num_threads(1)
        turns = generate(network, rows, prompts, 0.0, torch.Generator())
        torch.set_num_threads(threads)
        return [
            read_reply(turn, frozenset(tool.name for tool in conversation.tools), vocabulary)
            for conversation, turn in zip(conversations, turns, strict=True)
        ]

    return replies


def wrong(examples: Sequence[Example], ask: Ask) -> list[str]:
    """Returns what was asked in the examples that are not answered as documented."""
    replies = ask([example.conversation for example in examples])
    asked = [example.conversation.turns[-1] for example in examples]
    return [
        turn.text
        for turn, example, reply in zip(asked, examples, replies, strict=True)
        if isinstance(turn, User) and not is_right(example, reply)
    ]


def test_documented_questions_get_their_answers(ask: Ask) -> None:
    questions = [example for example in documented() if example.kind == "documented question"]
    failed = wrong(questions, ask)
    assert len(questions) - len(failed) >= QUESTIONS_RIGHT, failed
    must = {"Hello!", "What can you do?", "Tell me a joke", "Thanks", "How are you?"}
    assert not must & set(failed)


def test_documented_requests_get_their_calls(ask: Ask) -> None:
    requests = [example for example in documented() if example.kind == "documented request"]
    failed = wrong(requests, ask)
    assert len(requests) - len(failed) >= REQUESTS_RIGHT, failed
    must = {"What is the weather in Paris?", "Add 17 and 25", "Set a timer for 10 minutes"}
    assert not must & set(failed)


def test_documented_requests_are_well_formed(ask: Ask) -> None:
    requests = [example for example in documented() if example.kind == "documented request"]
    replies = ask([example.conversation for example in requests])
    formed = [reply for reply in replies if reply.stopped and reply.call is not None]
    assert len(formed) >= REQUESTS_FORMED
    for reply in formed:
        assert isinstance(msgspec.json.decode(reply.arguments), dict)


def test_most_small_sums_are_right(ask: Ask) -> None:
    asked = sums()[::EVERY_NTH_SUM]
    assert len(asked) - len(wrong(asked, ask)) >= SUMS_RIGHT


def test_numbers_are_the_reports() -> None:
    """The report belongs to the committed file, and its counts are what is documented."""
    report = msgspec.json.decode(REPORT.read_bytes(), type=TrainingReport)
    assert report.greedy["documented question"].right >= QUESTIONS_RIGHT
    assert report.greedy["documented request"].right >= REQUESTS_RIGHT


def test_the_report_is_of_this_file(checkpoint: Compact) -> None:
    report = msgspec.json.decode(REPORT.read_bytes(), type=TrainingReport)
    assert report.rows == len(checkpoint.ids)


def test_families_are_answered(ask: Ask) -> None:
    capital, count, twice = ask(
        [
            talk(User(text="What is the capital of France?")),
            talk(User(text="Count to ten")),
            talk(
                User(text="Hello!"),
                Assistant(content="Hello!"),
                User(text="What is the capital of Italy?"),
            ),
        ]
    )
    assert capital.content == "The capital of France is Paris."
    assert count.content == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert twice.content == "The capital of Italy is Rome."


@pytest.mark.parametrize("tools", [(), ("get_weather",), ("web_search", "send_email")])
def test_what_is_off_script_ends_and_is_well_formed(ask: Ask, tools: tuple[str, ...]) -> None:
    offered = [tool(key) for key in tools]
    plain = [talk(User(text=text), tools=offered) for text in OFF_SCRIPT]
    instructed = [talk(PIRATE, User(text=text), tools=offered) for text in OFF_SCRIPT]
    replies = ask([*plain, *instructed])
    assert all(reply.reasoning and (reply.call or reply.content) for reply in replies)
    assert sum(reply.stopped for reply in replies) >= len(replies) - STRAYS


def test_it_says_when_it_does_not_know(ask: Ask) -> None:
    (reply,) = ask([talk(User(text=OFF_SCRIPT[0]))])
    assert reply.content == FALLBACK


def test_a_tool_that_is_not_needed_is_not_called(ask: Ask) -> None:
    (greeting,) = ask([talk(User(text="Hello!"), tools=[tool("get_weather")])])
    assert greeting.call is None
    assert greeting.content.startswith("Hello!")


def test_without_any_tool_it_says_that_it_has_none(ask: Ask) -> None:
    (reply,) = ask([talk(User(text="What is the weather in Paris?"))])
    assert reply.content == NO_TOOL


def test_a_tools_result_is_told(ask: Ask) -> None:
    weather = "What is the weather in Paris?"
    replies = ask(
        [
            after("get_weather", weather, '{"location":"Paris"}', '{"temperature": 14}'),
            after("add", "What is 2 + 2?", '{"a":2,"b":2}', "4"),
            after("set_timer", "Set a timer for 10 minutes", '{"minutes":10}', "ok"),
        ]
    )
    assert [reply.content for reply in replies] == [
        "It is 14 degrees in Paris.",
        "The result is 4.",
        "The timer for 10 minutes is set.",
    ]
