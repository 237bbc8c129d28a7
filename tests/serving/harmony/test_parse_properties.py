"""What holds for every stream of ids, and agreement with the library on those that it accepts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.events import Content, Event, Reasoning, ToolCallArguments, ToolCallStart
from serving.harmony.parse import SEPARATOR, Parser
from serving.harmony.vocabulary import ORDINARY_TOKENS, SIZE, Vocabulary
from tests.serving.harmony.oracle import CONTROL, Message, Oracle, tokenize
from tests.serving.harmony.properties import PROPERTY
from tests.serving.harmony.streams import TOOLS, merged, parse

WORDS = st.sampled_from(
    [
        "assistant",
        "analysis",
        "commentary",
        "final",
        " to=functions.search",
        " to=",
        "json",
        "user",
        "hello",
        "to=python",
        "\n",
        "functions.get_weather",
        " ",
        "日本",
        '{"a":1}',
    ]
)
"""What headers are made of, in and out of place."""
BODIES = st.text(max_size=12)
STREAMS = st.lists(st.sampled_from(list(CONTROL)) | WORDS | BODIES, max_size=24).map("".join)
"""Streams that look like Harmony, mostly broken."""
ANY_IDS = st.lists(
    st.sampled_from(list(CONTROL.values()))
    | st.integers(0, SIZE - 1)
    | st.integers(0, 255)
    | st.integers(),
    max_size=40,
)


def texts(events: list[Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, Content | Reasoning | ToolCallArguments)]


def check_every_split(tokens: list[int], vocabulary: Vocabulary) -> None:
    """Asserts that pieces of a stream mean what the whole means, wherever it is cut."""
    whole, reference = parse(tokens, vocabulary)
    for cut in range(len(tokens) + 1):
        parser = Parser(vocabulary, TOOLS)
        events = parser.feed(tokens[:cut]) + parser.feed(tokens[cut:]) + parser.finish()
        assert merged(events) == merged(whole)
    parser = Parser(vocabulary, TOOLS)
    events = [event for token in tokens for event in parser.feed([token])] + parser.finish()
    assert merged(events) == merged(whole)
    assert parser.recoveries == reference.recoveries
    assert parser.reasoning_tokens == reference.reasoning_tokens
    assert parser.tool_calls == reference.tool_calls


@PROPERTY
@given(markup=STREAMS)
def test_a_stream_means_the_same_wherever_it_is_cut(vocabulary: Vocabulary, markup: str) -> None:
    check_every_split(tokenize(markup, vocabulary), vocabulary)


@PROPERTY
@given(tokens=ANY_IDS)
def test_any_ids_are_accepted_and_mean_the_same_wherever_they_are_cut(
    vocabulary: Vocabulary, tokens: list[int]
) -> None:
    check_every_split(tokens, vocabulary)


@PROPERTY
@given(tokens=ANY_IDS)
def test_events_are_whole_unicode_and_in_order(vocabulary: Vocabulary, tokens: list[int]) -> None:
    parser = Parser(vocabulary, TOOLS)
    events = [event for token in tokens for event in parser.feed([token])] + parser.finish()
    calls = 0
    for event in events:
        if isinstance(event, ToolCallStart):
            assert event.name in TOOLS
            assert event.index == calls
            calls += 1
        elif isinstance(event, ToolCallArguments):
            assert event.index == calls - 1
    for text in texts(events):
        assert text
        assert text.encode().decode() == text
    assert parser.tool_calls == calls
    assert 0 <= parser.reasoning_tokens <= len(tokens)


@PROPERTY
@given(tokens=st.lists(st.integers(0, ORDINARY_TOKENS - 1) | st.integers(0, 255), max_size=60))
def test_a_body_keeps_every_byte(vocabulary: Vocabulary, tokens: list[int]) -> None:
    for header in ("analysis", "final", "commentary to=functions.search"):
        prefix = tokenize(f"<|channel|>{header}<|message|>", vocabulary)
        events, parser = parse([*prefix, *tokens], vocabulary)
        assert "".join(texts(events)) == vocabulary.decode(tokens)
        assert parser.reasoning_tokens == (len(tokens) if header == "analysis" else 0)


@PROPERTY
@given(tokens=st.lists(st.integers(0, ORDINARY_TOKENS - 1), max_size=300))
def test_text_without_any_header_is_kept(vocabulary: Vocabulary, tokens: list[int]) -> None:
    word = vocabulary.encode("Well, then:")
    events, _ = parse([*word, *tokens], vocabulary, frozenset())
    assert "".join(texts(events)) == vocabulary.decode([*word, *tokens])


# --- agreement with the library -----------------------------------------------------------------

MESSAGES = st.builds(
    Message,
    channel=st.sampled_from(["analysis", "commentary", "final"]),
    recipient=st.none() | st.sampled_from(["functions.search", "functions.get_weather"]),
    text=st.text(st.characters(codec="utf-8"), max_size=30),
)


def written(message: Message, *, in_role: bool, constrained: bool, last: bool) -> str:
    """Returns the markup of a message in one of the forms that models use."""
    recipient = f" to={message.recipient}" if message.recipient else ""
    role, channel = (recipient, "") if in_role else ("", recipient)
    kind = " <|constrain|>json" if constrained and message.recipient else ""
    end = "<|call|>" if message.recipient else "<|return|>" if last else "<|end|>"
    return f"{role}<|channel|>{message.channel}{channel}{kind}<|message|>{message.text}{end}"


def meant(messages: list[Message]) -> list[Event]:
    """Returns the events that well-formed messages stand for."""
    events: list[Event] = []
    calls, shown = 0, set()
    for message in messages:
        if message.recipient:
            events.append(ToolCallStart(calls, message.recipient.removeprefix("functions.")))
            if message.text:
                events.append(ToolCallArguments(calls, message.text))
            calls += 1
        elif message.text:
            kind = Reasoning if message.channel == "analysis" else Content
            events.append(kind((SEPARATOR if kind in shown else "") + message.text))
            shown.add(kind)
    return merged(events)


@PROPERTY
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=5),
    in_role=st.booleans(),
    constrained=st.booleans(),
    last=st.booleans(),
)
def test_well_formed_streams_are_read_as_the_library_reads_them(
    vocabulary: Vocabulary,
    oracle: Oracle,
    messages: list[Message],
    in_role: bool,
    constrained: bool,
    last: bool,
) -> None:
    parts = [
        written(message, in_role=in_role, constrained=constrained, last=last and i == len(messages))
        for i, message in enumerate(messages, start=1)
    ]
    # Markup in a text would be read as control tokens: the text is encoded on its own.
    tokens: list[int] = []
    for part, message in zip(parts, messages, strict=True):
        head, _, tail = part.partition(f"<|message|>{message.text}")
        start = "<|start|>assistant" if tokens else ""
        tokens += tokenize(f"{start}{head}<|message|>", vocabulary)
        tokens += vocabulary.encode(message.text)
        tokens += tokenize(tail, vocabulary)
    assert oracle.parse(tokens) == messages
    events, parser = parse(tokens, vocabulary)
    assert merged(events) == meant(messages)
    assert parser.recoveries == {}
