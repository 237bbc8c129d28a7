"""What a structural tag lets the model write, token by token, by the compiler that engines use."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.core import Compiler, Matcher
from serving.grammar.structural_tag import ANY_OBJECT, structural_tag
from serving.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    ORDINARY_TOKENS,
    RETURN,
    START,
    STOP_TOKENS,
    Vocabulary,
)

CONTROL = {
    "<|channel|>": CHANNEL,
    "<|constrain|>": CONSTRAIN,
    "<|end|>": END,
    "<|message|>": MESSAGE,
    "<|start|>": START,
    "<|return|>": RETURN,
    "<|call|>": CALL,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = ToolForm(name="get_weather", schema=CITY)
LOOSE = ToolForm(name="get", schema=None)
THOUGHT = "<|channel|>analysis<|message|>Hm 日本…{<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
ARGUMENTS = '{"city": "Köln <|end|>", "days": 3}'
FIRST = "<|channel|>commentary to=functions.get_weather"
ROLE = " to=functions.get_weather<|channel|>commentary"
MARK = " <|constrain|>json<|message|>"


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Returns the tokens of a text in which a backtick stands before a control token's name."""
    tokens: list[int] = []
    at = 0
    while at < len(text):
        name = next((name for name in CONTROL if text.startswith(name, at)), None)
        if name is not None:
            tokens.append(CONTROL[name])
            at += len(name)
            continue
        end = min((i for n in CONTROL if (i := text.find(n, at)) >= 0), default=len(text))
        tokens += vocabulary.encode(text[at:end])
        at = end
    return tokens


def compiled(compiler: Compiler, constraint: Constraint) -> Matcher:
    tag = structural_tag(constraint)
    assert tag is not None
    return compiler.compile(tag).matcher()


def allows(matcher: Matcher, token: int) -> bool:
    return bool(matcher.allowed()[token // 32] >> (token % 32) & 1)


def follow(matcher: Matcher, tokens: list[int]) -> int:
    """Returns how many of the tokens are taken; the mask must say the same of each."""
    for count, token in enumerate(tokens):
        masked = allows(matcher, token)
        assert matcher.accept(token) is masked
        if not masked:
            return count
    return len(tokens)


def accepts(compiler: Compiler, vocabulary: Vocabulary, constraint: Constraint, text: str) -> bool:
    tokens = tokens_of(text, vocabulary)
    return follow(compiled(compiler, constraint), tokens) == len(tokens)


ANSWER = Constraint(schema=CITY)
FORCED = Constraint(tools=(WEATHER,), must_call=True)
STRICT = Constraint(tools=(WEATHER, LOOSE))
PLAIN_ARGUMENTS = '{"city": "Köln", "days": 3}'
CODE = Constraint(built_in=("python",), schema=CITY)
MUST_SEARCH = Constraint(built_in=("browser.open", "browser.search"), must_call=True)
RUN = "<|channel|>analysis to=python"
SEARCH = " to=browser.search<|channel|>analysis"

ALLOWED = [
    (ANSWER, FINAL + PLAIN_ARGUMENTS + "<|return|>"),
    (ANSWER, THOUGHT + THOUGHT + FINAL + PLAIN_ARGUMENTS + "<|return|>"),
    (ANSWER, "<|channel|>final" + MARK + '{\n  "city": "x",\n  "days": 3\n}<|return|>'),
    (Constraint(schema=ANY_OBJECT), FINAL + '{"a": [1, {"b": null}], "c": "d"}<|return|>'),
    (FORCED, FIRST + MARK + PLAIN_ARGUMENTS + "<|call|>"),
    (FORCED, ROLE + MARK + PLAIN_ARGUMENTS + "<|call|>"),
    (FORCED, ROLE + "<|message|>" + PLAIN_ARGUMENTS + "<|call|>"),
    (FORCED, THOUGHT + PREAMBLE + THOUGHT + ROLE + MARK + PLAIN_ARGUMENTS + "<|call|>"),
    (STRICT, FIRST + MARK + PLAIN_ARGUMENTS + "<|call|>"),
    (STRICT, "<|channel|>commentary to=functions.get" + MARK + "any {thing<|call|>"),
    (STRICT, THOUGHT + FINAL + "Free <b>text</b><|return|>"),
    (Constraint(tools=(WEATHER,), schema=CITY), FINAL + PLAIN_ARGUMENTS + "<|return|>"),
    (Constraint(tools=(LOOSE,), limits_tools=True), FINAL + "Free<|return|>"),
    (CODE, THOUGHT + RUN + " code<|message|>print({1}['a')<|call|>"),
    (CODE, " to=python<|channel|>analysis<|message|>x = 1\n<|call|>"),
    (CODE, THOUGHT + FINAL + PLAIN_ARGUMENTS + "<|return|>"),
    (MUST_SEARCH, THOUGHT + SEARCH + ' code<|message|>{"query": "x"}<|call|>'),
    (MUST_SEARCH, "<|channel|>analysis to=browser.open<|message|>{}<|call|>"),
    (Constraint(tools=(WEATHER,), built_in=("python",)), RUN + " code<|message|>1<|call|>"),
]
FORBIDDEN = [
    (ANSWER, FINAL + "Hello"),
    (ANSWER, FINAL + '{"city": "x"}'),
    (ANSWER, FINAL + '{"city": "x", "days": 10'),
    (ANSWER, FINAL + '{"city": "x", "days": 3, "more"'),
    (ANSWER, FINAL + '{"city": "<|end|>'),
    (ANSWER, FINAL + PLAIN_ARGUMENTS + " x"),
    (ANSWER, PREAMBLE),
    (ANSWER, ROLE),
    (ANSWER, "<|return|>"),
    (ANSWER, "<|channel|>analysis<|message|>x<|return|>"),
    (ANSWER, "<|channel|>analysis<|message|>x<|channel|>"),
    (ANSWER, "<|channel|>analysis<|message|>x<|end|><|start|>user"),
    (FORCED, FINAL),
    (FORCED, FIRST + "er"),
    (FORCED, " to=functions.other"),
    (FORCED, ROLE + MARK + '{"town"'),
    (STRICT, ROLE + MARK + "any"),
    (STRICT, " to=functions.unknown"),
    (Constraint(tools=(LOOSE,), limits_tools=True), ROLE),
    (ANSWER, RUN),
    (STRICT, RUN),
    (CODE, "<|channel|>commentary to=python"),
    (CODE, FINAL + "Free"),
    (CODE, SEARCH),
    (MUST_SEARCH, THOUGHT + FINAL),
    (MUST_SEARCH, RUN),
    (MUST_SEARCH, SEARCH + " code<|message|>cats"),
]


@pytest.mark.parametrize(("constraint", "text"), ALLOWED, ids=[case[1] for case in ALLOWED])
def test_it_may_be_written(
    compiler: Compiler, vocabulary: Vocabulary, constraint: Constraint, text: str
) -> None:
    assert accepts(compiler, vocabulary, constraint, text)


@pytest.mark.parametrize(("constraint", "text"), FORBIDDEN, ids=[case[1] for case in FORBIDDEN])
def test_it_may_not_be_written(
    compiler: Compiler, vocabulary: Vocabulary, constraint: Constraint, text: str
) -> None:
    assert not accepts(compiler, vocabulary, constraint, text)


def test_the_name_of_a_control_token_is_text_in_a_string(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    matcher = compiled(compiler, ANSWER)
    tokens = tokens_of(FINAL, vocabulary) + vocabulary.encode(ARGUMENTS)
    assert follow(matcher, tokens) == len(tokens)


@pytest.mark.parametrize("constraint", [ANSWER, FORCED, STRICT])
def test_nothing_but_a_stop_token_follows_the_end(
    compiler: Compiler, vocabulary: Vocabulary, constraint: Constraint
) -> None:
    matcher = compiled(compiler, constraint)
    end = FINAL if constraint is ANSWER else ROLE + MARK
    tokens = tokens_of(end + PLAIN_ARGUMENTS, vocabulary)
    assert follow(matcher, tokens) == len(tokens)
    bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
    assert set(np.flatnonzero(bits)) == set(STOP_TOKENS)


def test_white_space_between_parts_is_bounded(compiler: Compiler, vocabulary: Vocabulary) -> None:
    for blanks, fits in ((16, True), (17, False)):
        assert accepts(compiler, vocabulary, ANSWER, FINAL + "{" + "\n" * blanks) is fits


def test_what_binds_nothing_has_no_grammar_and_equal_constraints_have_equal_ones() -> None:
    assert structural_tag(Constraint(tools=(LOOSE,))) is None
    assert structural_tag(Constraint()) is None
    same: dict[str, Any] = json.loads(json.dumps(CITY))
    assert structural_tag(ANSWER) == structural_tag(Constraint(schema=same))
    with pytest.raises(ValueError, match="no tool"):
        structural_tag(Constraint(must_call=True))


TEXTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "free": {"type": "string"},
        "short": {"type": "string", "maxLength": 20},
        "pattern": {"type": "string", "pattern": "^x.*[^a]$"},
        "uri": {"type": "string", "format": "uri"},
        "any": {},
        "named": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
TEXTS["required"] = list(TEXTS["properties"])
WHOLE = (
    '{"free": "a <|end|> b", "short": "1 < 2", "pattern": "x<yz", "uri": "http://a.b/c",'
    ' "any": [{"k": "<|"}, "||"], "named": {"n<|": ""}}'
)


def test_no_control_token_can_be_chosen_in_a_string(
    compiler: Compiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(structural_tag(Constraint(schema=TEXTS)) or "").matcher()
    for token in tokens_of("<|channel|>final<|message|>", vocabulary):
        assert matcher.accept(token)
    for token in vocabulary.encode(WHOLE):
        allowed = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
        assert not allowed[ORDINARY_TOKENS:].any()
        assert matcher.accept(token)
    assert matcher.accept(RETURN)
