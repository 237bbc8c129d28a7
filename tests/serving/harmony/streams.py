"""Streams of generated tokens as markup, with the events that they mean."""

from __future__ import annotations

from collections.abc import Sequence

from serving.events import Content, Event, Reasoning, ToolCallArguments, ToolCallStart
from serving.harmony.parse import Parser
from serving.harmony.vocabulary import Vocabulary

TOOLS = frozenset(("get_weather", "search"))
CALLED: list[Event] = [ToolCallStart(0, "get_weather"), ToolCallArguments(0, '{"city":"Paris"}')]
ARGUMENTS = '<|message|>{"city":"Paris"}<|call|>'
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"


def parse(
    tokens: Sequence[int], vocabulary: Vocabulary, tools: frozenset[str] = TOOLS
) -> tuple[list[Event], Parser]:
    """Returns the events of all tokens at once, and the parser."""
    parser = Parser(vocabulary, tools)
    return parser.feed(tokens) + parser.finish(), parser


WELL_FORMED: dict[str, tuple[str, list[Event]]] = {
    "an answer": ("<|channel|>final<|message|>Hi!<|return|>", [Content("Hi!")]),
    "reasoning, then an answer": (
        THOUGHT + "<|start|>assistant<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
    ),
    "a call, recipient in the role": (
        " to=functions.get_weather<|channel|>commentary <|constrain|>json" + ARGUMENTS,
        list(CALLED),
    ),
    "a call, recipient in the channel": (
        "<|channel|>commentary to=functions.get_weather <|constrain|>json" + ARGUMENTS,
        list(CALLED),
    ),
    "a call without a content type": (
        "<|channel|>commentary to=functions.get_weather" + ARGUMENTS,
        list(CALLED),
    ),
    "a call, content type as a word": (
        "<|channel|>commentary to=functions.get_weather json" + ARGUMENTS,
        list(CALLED),
    ),
    "a call on the analysis channel": (
        "<|channel|>analysis to=functions.get_weather code" + ARGUMENTS,
        list(CALLED),
    ),
    "a call on the final channel": (
        "<|channel|>final to=functions.get_weather <|constrain|>json" + ARGUMENTS,
        list(CALLED),
    ),
    "reasoning, a preamble, a call": (
        THOUGHT + "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json"
        + ARGUMENTS,
        [Reasoning("Hm."), Content("I look."), *CALLED],
    ),
    "two calls": (
        "<|channel|>commentary to=functions.get_weather <|constrain|>json"
        + ARGUMENTS
        + "<|start|>assistant<|channel|>commentary to=functions.search<|message|>[]<|call|>",
        [*CALLED, ToolCallStart(1, "search"), ToolCallArguments(1, "[]")],
    ),
    "a JSON answer": (
        '<|channel|>final <|constrain|>json<|message|>{"a":1}<|return|>',
        [Content('{"a":1}')],
    ),
    "a preamble, then an answer": (
        "<|channel|>commentary<|message|>One.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Two.<|return|>",
        [Content("One.\n\nTwo.")],
    ),
    "two thoughts": (
        THOUGHT + "<|start|>assistant<|channel|>analysis<|message|>And?<|end|>",
        [Reasoning("Hm.\n\nAnd?")],
    ),
    "empty bodies": (
        "<|channel|>analysis<|message|><|end|>"
        "<|start|>assistant<|channel|>final<|message|><|return|>",
        [],
    ),
    "a call without arguments": (
        "<|channel|>commentary to=functions.search<|message|><|call|>",
        [ToolCallStart(0, "search")],
    ),
    "many scripts": (
        "<|channel|>final<|message|>日本語 🦩 e\u0301 مرحبا\r\n<|return|>",
        [Content("日本語 🦩 e\u0301 مرحبا\r\n")],
    ),
    "an end of text": ("<|channel|>final<|message|>Hi!<|endoftext|>", [Content("Hi!")]),
    "no end": ("<|channel|>final<|message|>Hi", [Content("Hi")]),
}


MALFORMED: dict[str, tuple[str, list[Event], set[str]]] = {
    "recipient in role and channel": (
        " to=functions.get_weather<|channel|>commentary to=functions.get_weather"
        " <|constrain|>json" + ARGUMENTS,
        list(CALLED),
        {"repeated_recipient"},
    ),
    "a polluted tool name": (
        "<|channel|>commentary to=functions.get_weather:" + ARGUMENTS,
        list(CALLED),
        {"tool_name"},
    ),
    "the channel twice": (
        " to=functions.get_weather<|channel|>commentary<|channel|>commentary" + ARGUMENTS,
        list(CALLED),
        set(),
    ),
    "no channel": ("<|message|>Hi!<|return|>", [Content("Hi!")], {"missing_channel"}),
    "no channel, a recipient": (
        " to=functions.get_weather" + ARGUMENTS,
        list(CALLED),
        {"missing_channel"},
    ),
    "no header at all": (
        "Hi there, friend.<|return|>",
        [Content("Hi there, friend.")],
        {"missing_channel", "missing_message"},
    ),
    "no <|message|>": (
        "<|channel|>analysis I think so.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Yes.<|return|>",
        [Reasoning("I think so."), Content("Yes.")],
        {"missing_message"},
    ),
    "no <|message|> in a call": (
        '<|channel|>commentary to=functions.get_weather <|constrain|>json{"city":"Paris"}<|call|>',
        list(CALLED),
        {"missing_message"},
    ),
    "no <|message|> and no arguments in a call": (
        "<|channel|>commentary to=functions.search<|call|>",
        [ToolCallStart(0, "search")],
        {"missing_message"},
    ),
    "no <|start|>": (
        THOUGHT + "<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_start"},
    ),
    "no <|start|>, the role there": (
        THOUGHT + "assistant<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_start"},
    ),
    "no <|start|>, no channel": (
        THOUGHT + "<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_start", "missing_channel"},
    ),
    "no <|end|>": (
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_end"},
    ),
    "no <|end|> and no <|start|>": (
        "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_end", "missing_start"},
    ),
    "the prompt's <|start|>assistant again": (
        "<|start|>assistant<|channel|>final<|message|>Hi!<|return|>",
        [Content("Hi!")],
        {"stray_token"},
    ),
    "the channel's token missing": (
        THOUGHT + "<|start|>assistantfinal<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"missing_channel"},
    ),
    "an unknown role": (
        THOUGHT + "<|start|>oracle<|channel|>final<|message|>Hi!<|return|>",
        [Reasoning("Hm."), Content("Hi!")],
        {"unexpected_role"},
    ),
    "a made-up tool result": (
        THOUGHT + "<|start|>functions.search to=assistant<|channel|>commentary<|message|>[]<|end|>",
        [Reasoning("Hm."), Content("[]")],
        {"unexpected_role"},
    ),
    "an unknown channel": (
        "<|channel|>thoughts<|message|>Hi!<|return|>",
        [Content("Hi!")],
        {"unknown_channel"},
    ),
    "text behind the channel": (
        "<|channel|>commentary??? hello<|message|>Hi!<|return|>",
        [Content("Hi!")],
        {"malformed_header"},
    ),
    "a constraint that is none": (
        "<|channel|>final <|constrain|>answer<|message|>Hi!<|return|>",
        [Content("Hi!")],
        {"malformed_header"},
    ),
    "control tokens in a body": (
        "<|channel|>final<|message|>H<|constrain|>i<|message|>!<|return|>",
        [Content("Hi!")],
        {"stray_token"},
    ),
    "a tool that was not offered": (
        '<|channel|>commentary to=functions.delete <|constrain|>json<|message|>{"a":1}<|call|>',
        [Content('{"a":1}')],
        {"unoffered_tool"},
    ),
    "a built-in tool that was not offered": (
        "<|channel|>analysis to=python code<|message|>1+1<|call|>",
        [Reasoning("1+1")],
        {"unoffered_tool"},
    ),
    "text after the answer": (
        "<|channel|>final<|message|>Hi!<|return|>More text.<|end|>",
        [Content("Hi!\n\nMore text.")],
        {"missing_start", "missing_channel", "missing_message"},
    ),
    "a conversation after the answer": (
        "<|channel|>final<|message|>Hi!<|return|>"
        "<|start|>user<|message|>Go on.<|end|><|start|>assistant" + THOUGHT,
        [Content("Hi!\n\nGo on."), Reasoning("Hm.")],
        {"unexpected_role", "missing_channel"},
    ),
    "ends without messages": ("<|end|><|return|>", [], {"missing_message", "stray_token"}),
    "white space for a header": (" \n<|return|>", [], {"missing_message"}),
}


def merged(events: Sequence[Event]) -> list[Event]:
    """Returns the events with adjacent texts of one kind joined."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments):
            joined[-1] = ToolCallArguments(last.index, last.text + event.text)
        else:
            joined.append(event)
    return joined


def is_beginning(events: Sequence[Event], whole: Sequence[Event]) -> bool:
    """Whether `events` are the first of `whole`; the last may be cut, even inside a character."""
    for event, full in zip(events, whole, strict=False):
        if isinstance(event, ToolCallStart) or event == full:
            if event != full:
                return False
            continue
        if type(event) is not type(full) or event is not events[-1]:
            return False
        if isinstance(event, Content | Reasoning | ToolCallArguments):
            assert isinstance(full, Content | Reasoning | ToolCallArguments)
            return full.text.startswith(event.text.rstrip("\ufffd"))
    return len(events) <= len(whole)
