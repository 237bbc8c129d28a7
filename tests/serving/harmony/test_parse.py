"""Generated tokens as events: well-formed streams, and every way in which models break them."""

from __future__ import annotations

import pytest

from serving.events import Content, Reasoning, ToolCallArguments, ToolCallStart
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.parse import MAX_HEADER_TOKENS, RECOVERIES, Parser
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import CALL, END, MESSAGE, RETURN, SIZE, START, Vocabulary
from tests.serving.harmony.conftest import Tokenize
from tests.serving.harmony.streams import (
    MALFORMED,
    THOUGHT,
    TOOLS,
    WELL_FORMED,
    is_beginning,
    merged,
    parse,
)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_well_formed_stream(name: str, vocabulary: Vocabulary, ids: Tokenize) -> None:
    markup, expected = WELL_FORMED[name]
    events, parser = parse(ids(markup), vocabulary)
    assert events == expected
    assert parser.recoveries == {}
    assert parser.tool_calls == sum(isinstance(event, ToolCallStart) for event in expected)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_stream(name: str, vocabulary: Vocabulary, ids: Tokenize) -> None:
    markup, expected, recoveries = MALFORMED[name]
    events, parser = parse(ids(markup), vocabulary)
    assert events == expected
    assert set(parser.recoveries) == recoveries
    assert recoveries <= set(RECOVERIES)


def test_every_recovery_has_a_stream_that_needs_it() -> None:
    assert set().union(*(recoveries for _, _, recoveries in MALFORMED.values())) == set(RECOVERIES)


@pytest.mark.parametrize("name", [*WELL_FORMED, *MALFORMED])
def test_a_stream_may_be_cut_anywhere(name: str, vocabulary: Vocabulary, ids: Tokenize) -> None:
    tokens = ids((WELL_FORMED | MALFORMED)[name][0])
    whole, reference = parse(tokens, vocabulary)
    for cut in range(len(tokens) + 1):
        parser = Parser(vocabulary, TOOLS)
        events = parser.feed(tokens[:cut]) + parser.feed(tokens[cut:]) + parser.finish()
        assert merged(events) == merged(whole)
        assert parser.recoveries == reference.recoveries
    parser = Parser(vocabulary, TOOLS)
    events = [event for token in tokens for event in parser.feed([token])] + parser.finish()
    assert merged(events) == merged(whole)
    assert parser.reasoning_tokens == reference.reasoning_tokens


@pytest.mark.parametrize("name", [*WELL_FORMED, *MALFORMED])
def test_a_stream_may_end_anywhere(name: str, vocabulary: Vocabulary, ids: Tokenize) -> None:
    markup, expected = (WELL_FORMED | MALFORMED)[name][:2]
    tokens = ids(markup)
    for end in range(len(tokens)):
        events, _ = parse(tokens[:end], vocabulary)
        if name in WELL_FORMED:
            assert is_beginning(merged(events), expected)


# --- characters ---------------------------------------------------------------------------------


def test_no_part_of_a_character_leaves(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary)
    parser.feed(ids("<|channel|>final<|message|>a"))
    flamingo = vocabulary.encode("🦩")
    assert len(flamingo) > 1
    for token in flamingo[:-1]:
        assert parser.feed([token]) == []
        assert parser.content_open
    assert parser.feed(flamingo[-1:]) == [Content("🦩")]
    assert parser.feed(vocabulary.encode("b")) == [Content("b")]


def test_bytes_that_are_no_character_are_replaced_and_stall_nothing(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    partial = vocabulary.encode("🦩")[:1]
    header = ids("<|channel|>final<|message|>")
    events, _ = parse([*header, *partial, *vocabulary.encode("b"), RETURN], vocabulary)
    assert events == [Content("\ufffdb")]
    events, _ = parse([*header, *partial, *partial, RETURN], vocabulary)
    assert events == [Content("\ufffd\ufffd")]
    events, _ = parse([*header, *partial], vocabulary)
    assert events == [Content("\ufffd")]


def test_a_character_does_not_reach_over_the_end_of_a_message(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    first, *rest = vocabulary.encode("🦩")
    tokens = [
        *ids("<|channel|>analysis<|message|>"), first, END,
        *ids("<|start|>assistant<|channel|>final<|message|>"), *rest, RETURN,
    ]  # fmt: skip
    events, parser = parse(tokens, vocabulary)
    assert events[0] == Reasoning("\ufffd")
    assert isinstance(events[1], Content)
    assert set(events[1].text) == {"\ufffd"}
    assert parser.reasoning_tokens == 1


# --- what the parser counts and says ------------------------------------------------------------


def test_reasoning_tokens_are_those_of_reasoning_bodies(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    thought = "Let me think 🦩 about it."
    markup = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"
    markup += "<|channel|>final<|message|>A longer answer than the thought was.<|return|>"
    _, parser = parse(ids(markup), vocabulary)
    assert parser.reasoning_tokens == len(vocabulary.encode(thought))


def test_content_is_open_between_a_content_header_and_its_end(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    tokens = ids(THOUGHT + "<|start|>assistant<|channel|>final<|message|>One two.<|return|>")
    parser = Parser(vocabulary)
    inside = []
    for token in tokens:
        before = parser.content_open
        parser.feed([token])
        if before and parser.content_open:
            inside.append(token)
    assert vocabulary.decode(inside) == "One two."


def test_content_is_not_open_in_a_call(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary, TOOLS)
    parser.feed(ids("<|channel|>commentary to=functions.search<|message|>{"))
    assert not parser.content_open


def test_adjacent_texts_of_one_feed_are_one_event(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary)
    events = parser.feed(ids("<|channel|>final<|message|>one two 🦩 three<|return|>"))
    assert events == [Content("one two 🦩 three")]


def test_each_token_of_a_body_is_an_event_at_once(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary, TOOLS)
    parser.feed(ids("<|channel|>commentary to=functions.search<|message|>"))
    text = '{"query":"a b"}'
    events = [parser.feed([token]) for token in vocabulary.encode(text)]
    assert all(len(found) == 1 for found in events)
    assert merged([found[0] for found in events]) == [ToolCallArguments(0, text)]


def test_finish_may_be_called_twice(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary)
    parser.feed([*ids("<|channel|>final<|message|>"), *vocabulary.encode("🦩")[:1]])
    assert parser.finish() == [Content("\ufffd")]
    assert parser.finish() == []


@pytest.mark.parametrize(
    "markup",
    [
        "",
        " to",
        " to=functions.get_wea",
        "<|channel|>",
        "<|channel|>comm",
        "<|channel|>analysis",
        "<|channel|>commentary to=functions.search <|constrain|>js",
        THOUGHT + "<|start|>",
        THOUGHT + "<|start|>assist",
    ],
)
def test_a_header_that_is_cut_off_shows_nothing(
    markup: str, vocabulary: Vocabulary, ids: Tokenize
) -> None:
    events, parser = parse(ids(markup), vocabulary)
    assert [event for event in events if not isinstance(event, Reasoning)] == []
    assert parser.recoveries == {}


# --- text where a header should be --------------------------------------------------------------


def test_a_header_that_does_not_end_becomes_a_body_and_flows(vocabulary: Vocabulary) -> None:
    text = "There is no header here, only words that go on and on, 🦩. " * 20
    tokens = vocabulary.encode(text)
    parser = Parser(vocabulary)
    events = []
    for i, token in enumerate(tokens):
        found = parser.feed([token])
        assert not found or i >= MAX_HEADER_TOKENS
        events += found
    assert merged(events) == [Content(text)]
    assert parser.content_open
    assert len(events) > len(tokens) - MAX_HEADER_TOKENS - 100


@pytest.mark.parametrize("offset", range(4))
def test_a_character_may_lie_where_a_header_is_given_up(
    offset: int, vocabulary: Vocabulary
) -> None:
    flamingo = vocabulary.encode("🦩")
    tokens = [*vocabulary.encode(" a") * offset, *flamingo * MAX_HEADER_TOKENS]
    events, _ = parse(tokens, vocabulary)
    text = vocabulary.decode(tokens).lstrip()
    assert events == [Content(text)]


def test_reasoning_without_its_message_token_flows_as_reasoning(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    text = "I wonder what to say. " * 30
    events, parser = parse(ids(f"<|channel|>analysis {text}<|end|>"), vocabulary)
    assert events == [Reasoning(text)]
    assert parser.recoveries == {"missing_message": 1}


def test_arguments_without_their_message_token_flow_as_arguments(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    text = '{"city": "' + "Paris " * 200 + '"}'
    markup = f"<|channel|>commentary to=functions.get_weather <|constrain|>json{text}<|call|>"
    events, _ = parse(ids(markup), vocabulary)
    assert events == [ToolCallStart(0, "get_weather"), ToolCallArguments(0, text)]


# --- ids that are no tokens, and the way back ---------------------------------------------------


@pytest.mark.parametrize("token", [-1, -(2**70), SIZE, 2**70, 200_013, CALL + 1])
@pytest.mark.parametrize("before", ["", "<|channel|>final", "<|channel|>final<|message|>Hi"])
def test_an_id_that_means_nothing_is_dropped(
    token: int, before: str, vocabulary: Vocabulary, ids: Tokenize
) -> None:
    parser = Parser(vocabulary)
    events = parser.feed(ids(before))
    assert parser.feed([token]) == []
    assert parser.recoveries == {"stray_token": 1}
    rest = "<|channel|>final<|message|>Hi"[len(before) :]
    assert merged(events + parser.feed(ids(rest))) == [Content("Hi")]


@pytest.mark.parametrize(
    "turn",
    [
        Assistant(reasoning="Hm.", content="Hi!"),
        Assistant(content="Hi!"),
        Assistant(
            reasoning="Hm.",
            content="I look.",
            calls=(ToolCall(name="get_weather", arguments='{"city":"Paris"}'),),
        ),
        Assistant(calls=(ToolCall(name="search", arguments="not JSON"),)),
    ],
)
def test_what_is_rendered_parses_back(turn: Assistant, vocabulary: Vocabulary) -> None:
    events, parser = parse(render_completion(turn, vocabulary), vocabulary)
    found = Assistant(
        reasoning="".join(e.text for e in events if isinstance(e, Reasoning)) or None,
        content="".join(e.text for e in events if isinstance(e, Content)) or None,
        calls=tuple(
            ToolCall(
                name=call.name,
                arguments="".join(
                    e.text
                    for e in events
                    if isinstance(e, ToolCallArguments) and e.index == call.index
                ),
            )
            for call in events
            if isinstance(call, ToolCallStart)
        ),
    )
    assert found == turn
    assert parser.recoveries == {}


def test_nothing_is_content_before_a_header(vocabulary: Vocabulary) -> None:
    parser = Parser(vocabulary)
    assert not parser.content_open
    assert parser.feed([]) == []
    assert parser.feed([START]) == []
    assert parser.feed([MESSAGE]) == []
    assert parser.content_open
