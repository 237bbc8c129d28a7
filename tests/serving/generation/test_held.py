"""Held answers that are not what they are held to: an error, or cut; never whole."""

from __future__ import annotations

from typing import Any

import pytest

from serving.boundary.messages import Finish, Output
from serving.errors import ErrorKind, ServingError
from serving.events import Content, Event, Finished, ToolCallArguments, ToolCallStart
from serving.generation.choice import Choice
from serving.grammar.constraint import Constraint, ToolForm
from serving.harmony.parse import Parser
from serving.harmony.vocabulary import CONTROL_NAMES, Vocabulary

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
BY_NAME = {name: token for token, name in CONTROL_NAMES.items()}
FINAL = "<|channel|>final<|message|>"
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
GOOD = '{"city": "Köln", "days": 3}'
STRICT, FREE = ToolForm(name="strict", schema=CITY), ToolForm(name="free", schema=None)
SCHEMA = Constraint(schema=CITY)
CALLS = Constraint(tools=(STRICT, FREE))
FORCED = Constraint(tools=(STRICT, FREE), must_call=True)


def call(name: str, arguments: str) -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Returns tokens in which the names of control tokens are those tokens."""
    for name, token in BY_NAME.items():
        before, found, after = text.partition(name)
        if found:
            return [*tokens_of(before, vocabulary), token, *tokens_of(after, vocabulary)]
    return vocabulary.encode(text)


def run(
    vocabulary: Vocabulary,
    held: Constraint,
    text: str,
    finish: Finish = "stop",
    *,
    step: int = 1,
    stop: tuple[str, ...] = (),
) -> list[Event]:
    """Returns the events of an answer that comes so many tokens at a time."""
    parser = Parser(vocabulary, frozenset({"strict", "free", "other"}))
    choice = Choice(parser, [0], stop, logprobs=False, held=held)
    tokens = tokens_of(text, vocabulary)
    events: list[Event] = []
    for start in range(0, len(tokens), step):
        last = start + step >= len(tokens)
        events += choice.feed(Output(1, tokens[start : start + step], finish if last else ""))
        if choice.ended:
            break
    return events


WHOLE = [
    (SCHEMA, THOUGHT + FINAL + GOOD + "<|return|>", "stop"),
    (SCHEMA, FINAL + f" {GOOD}\n", "stop"),
    (CALLS, PREAMBLE + call("strict", GOOD) + "<|call|>", "tool_calls"),
    (CALLS, call("free", "anything") + "<|call|>", "tool_calls"),
    (CALLS, FINAL + "Free words.<|return|>", "stop"),
    (FORCED, THOUGHT + call("strict", GOOD), "tool_calls"),
    (Constraint(tools=(STRICT,), schema=CITY), call("strict", GOOD), "tool_calls"),
]


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(("held", "text", "reason"), WHOLE)
def test_what_keeps_to_it_is_whole(
    vocabulary: Vocabulary, held: Constraint, text: str, reason: str, step: int
) -> None:
    end = run(vocabulary, held, text, step=step)[-1]
    assert isinstance(end, Finished)
    assert end.reason == reason


BROKEN = {
    "a control token ends the message": (SCHEMA, FINAL + '{"city": "K<|end|>öln", "days": 3}'),
    "it begins another": (SCHEMA, FINAL + '{"city": "<|start|>assistant<|channel|>final'),
    "a stop token within": (SCHEMA, FINAL + '{"city": "Kö<|return|>'),
    "cut in the middle": (SCHEMA, FINAL + GOOD[:-3]),
    "text behind it": (SCHEMA, FINAL + GOOD + " Done."),
    "a bare tab": (SCHEMA, FINAL + GOOD.replace("ö", "\t")),
    "a wrong type": (SCHEMA, FINAL + GOOD.replace("3", '"3"')),
    "a property too few": (SCHEMA, FINAL + '{"city": "Köln"}'),
    "no answer": (SCHEMA, THOUGHT),
    "a preamble before it": (SCHEMA, PREAMBLE + FINAL + GOOD),
    "two answers": (SCHEMA, FINAL + GOOD + "<|end|><|start|>assistant" + FINAL + GOOD),
    "wrong arguments": (CALLS, call("strict", '{"city": 1, "days": 1}') + "<|call|>"),
    "arguments that are cut": (CALLS, call("strict", '{"city": "<|end|>') + FINAL + "So."),
    "no call": (FORCED, FINAL + "No.<|return|>"),
    "a preamble alone": (FORCED, PREAMBLE),
    "another function": (CALLS, call("other", "{}") + "<|call|>"),
    "a call that is not allowed": (SCHEMA, call("strict", GOOD) + "<|call|>"),
}


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(("held", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_out_is_an_error(
    vocabulary: Vocabulary, held: Constraint, text: str, step: int
) -> None:
    with pytest.raises(ServingError) as broken:
        run(vocabulary, held, text, step=step)
    assert broken.value.kind is ErrorKind.INVALID_OUTPUT


def test_what_comes_after_broken_arguments_is_not_shown(vocabulary: Vocabulary) -> None:
    """A client may make a call once something follows it."""
    parser = Parser(vocabulary, frozenset({"strict"}))
    choice = Choice(parser, [0], (), logprobs=False, held=CALLS)
    begun = choice.feed(Output(1, tokens_of(call("strict", '{"city'), vocabulary)))
    assert [type(event) for event in begun] == [ToolCallStart, ToolCallArguments]
    with pytest.raises(ServingError, match="arguments of its call is not JSON"):
        choice.feed(Output(1, tokens_of("<|end|><|start|>assistant" + FINAL + "So", vocabulary)))


@pytest.mark.parametrize(("held", "text"), [BROKEN["cut in the middle"], BROKEN["no answer"]])
def test_what_a_limit_cuts_says_so(vocabulary: Vocabulary, held: Constraint, text: str) -> None:
    end = run(vocabulary, held, text, "length")[-1]
    assert isinstance(end, Finished)
    assert end.reason == "length"


@pytest.mark.parametrize(
    ("stop", "reason", "shown"),
    [("days", "length", '{"city": "Köln", "'), (" Done", "stop", GOOD)],
)
def test_what_a_stop_string_cuts_is_whole_only_where_it_is(
    vocabulary: Vocabulary, stop: str, reason: str, shown: str
) -> None:
    events = run(vocabulary, SCHEMA, FINAL + GOOD + " Done.", stop=(stop,))
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.stop_string) == (reason, stop)
    assert "".join(event.text for event in events if isinstance(event, Content)) == shown
