"""Tags for TensorRT-LLM: only formats that its xgrammar has, and what they let the model write.

The compiler here is the service's xgrammar, given the vocabulary as TensorRT-LLM gives it to its
own: a control token is its name as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.boundary.messages import Generate, Output
from serving.engines.trtllm import TrtllmRuntime, strings, tags
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.core import Compiler, Matcher
from serving.grammar.structural_tag import ANY_OBJECT, structural_tag
from serving.harmony.vocabulary import (
    CONTROL_NAMES,
    END,
    ORDINARY_TOKENS,
    RETURN,
    Vocabulary,
)
from tests.serving.engines.trtllm.conftest import schema_grammar

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolForm(name="get_weather", schema=CITY)
LOOSE = ToolForm(name="get", schema=None)
THOUGHT = "<|channel|>analysis<|message|>Hm 日本 a<b{<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.get_weather"
BY_NAME = {name: token for token, name in CONTROL_NAMES.items()}


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> Compiler:
    """A compiler to which control tokens are text."""
    return Compiler([vocabulary.token_bytes(t) for t in range(Vocabulary.size)], Vocabulary.size)


@pytest.fixture
def start(compiler: Compiler) -> Callable[[Constraint], Matcher]:
    """Returns a function that compiles a constraint's tag as TensorRT-LLM gets it."""

    def compile_one(constraint: Constraint) -> Matcher:
        tag = tags.translate(structural_tag(constraint) or "", schema_grammar)
        return compiler.compile(tag).matcher()

    return compile_one


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Returns the tokens that a model writes: names of control tokens as those tokens."""
    for name, token in BY_NAME.items():
        before, found, after = text.partition(name)
        if found:
            return [*tokens_of(before, vocabulary), token, *tokens_of(after, vocabulary)]
    return vocabulary.encode(text)


def allows(matcher: Matcher, token: int) -> bool:
    return bool(matcher.allowed()[token // 32] >> (token % 32) & 1)


def takes(matcher: Matcher, text: str, vocabulary: Vocabulary) -> bool:
    """Tells whether every token of a text is taken."""
    return all(matcher.accept(token) for token in tokens_of(text, vocabulary))


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint(schema=CITY), THOUGHT + '<|channel|>final<|message|>{"city": "Köln"}'),
        (Constraint(schema=CITY), '<|channel|>final <|constrain|>json<|message|>{"city":"K"}'),
        (Constraint(tools=(WEATHER,)), "<|channel|>final<|message|>free < text"),
        (
            Constraint(tools=(WEATHER, LOOSE), must_call=True),
            THOUGHT + PREAMBLE + CALL + ' <|constrain|>json<|message|>{"city": "Köln"}',
        ),
        (
            Constraint(tools=(WEATHER, LOOSE), must_call=True),
            " to=functions.get<|channel|>commentary<|message|>anything",
        ),
    ],
)
def test_a_held_answer_is_taken_to_its_end(
    start: Callable[[Constraint], Matcher],
    vocabulary: Vocabulary,
    constraint: Constraint,
    text: str,
) -> None:
    matcher = start(constraint)
    assert not allows(matcher, RETURN)
    assert takes(matcher, text, vocabulary)
    assert allows(matcher, RETURN)


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint(schema=CITY), "<|channel|>final<|message|>hello"),
        (Constraint(schema=CITY), '<|channel|>final<|message|>{"city": 1'),
        (Constraint(schema=CITY), PREAMBLE),
        (Constraint(tools=(WEATHER,), must_call=True), "<|channel|>final"),
        (Constraint(tools=(WEATHER,), must_call=True), "<|channel|>commentary to=functions.set"),
    ],
)
def test_another_answer_is_not(
    start: Callable[[Constraint], Matcher],
    vocabulary: Vocabulary,
    constraint: Constraint,
    text: str,
) -> None:
    assert not takes(start(constraint), text, vocabulary)


def test_free_text_holds_no_control_token_and_spells_no_other(
    start: Callable[[Constraint], Matcher], vocabulary: Vocabulary
) -> None:
    matcher = start(Constraint(tools=(WEATHER,)))
    assert takes(matcher, "<|channel|>analysis<|message|>I think", vocabulary)
    allowed = [token for token in CONTROL_NAMES if allows(matcher, token)]
    assert allowed == [END]
    for token in vocabulary.encode("<"):
        assert matcher.accept(token)
    assert not all(matcher.accept(token) for token in vocabulary.encode("|call|>"))


STRINGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "free": {"type": "string"},
        "short": {"type": "string", "maxLength": 20},
        "pattern": {"type": "string", "pattern": "^x.*[^a]$"},
        "pointer": {"type": "string", "format": "json-pointer"},
        "mail": {"type": "string", "format": "email"},
        "uri": {"type": "string", "format": "uri"},
        "one": {"enum": ["q<|end|>", "y<b", 3]},
        "count": {"type": "integer", "minimum": 1},
        "any": {},
        "named": {"type": "object", "additionalProperties": {"type": "string"}},
        "<|start|>": {"type": "boolean"},
    },
}
STRINGS["required"] = list(STRINGS["properties"])
BODY = "<|channel|>final<|message|>"
WHOLE = r"""{"free": "a < b <b> \u003c|end|> <\u007c <", "short": "1 \u003c 2",
"pattern": "x\u003cyz",
"pointer": "/a/~1", "mail": "a@b.co", "uri": "http://a.b/c", "one": "q\u003c|end|>", "count": 2,
"any": [{"k|": "<", "<": null}, "||"], "named": {"n<": ""}, "\u003c|start|>": true}"""


def test_no_string_holds_a_control_token_nor_spells_one_nor_a_bare_character(
    start: Callable[[Constraint], Matcher], vocabulary: Vocabulary
) -> None:
    matcher = start(Constraint(schema=STRINGS))
    assert takes(matcher, BODY, vocabulary)
    pieces = [vocabulary.token_bytes(token) for token in range(ORDINARY_TOKENS)]
    spelling = [token for token, piece in enumerate(pieces) if b"<|" in piece or b"\t" in piece]
    barred = [*range(ORDINARY_TOKENS, Vocabulary.size), *spelling]
    bars = [token for token, piece in enumerate(pieces) if piece.startswith(b"|")]
    text = b""
    for token in vocabulary.encode(WHOLE):
        if text.count(b'"') % 2:
            allowed = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
            assert not allowed[barred].any(), text
            assert not (text.endswith(b"<") and allowed[bars].any()), text
        assert matcher.accept(token), text
        text += vocabulary.token_bytes(token)
    assert allows(matcher, RETURN)
    assert json.loads(text)["one"] == "q<|end|>"


def test_white_space_has_an_end(
    start: Callable[[Constraint], Matcher], vocabulary: Vocabulary
) -> None:
    matcher = start(Constraint(schema=CITY))
    assert takes(matcher, BODY + "{", vocabulary)
    (blank,) = vocabulary.encode("\n")
    taken = [matcher.accept(blank) for _ in range(20)]
    assert taken == [True] * strings.MOST_BLANKS + [False] * (20 - strings.MOST_BLANKS)


@pytest.mark.parametrize("rule", ['Regex("a")', 'TagDispatch(("a", b))'])
def test_a_grammar_that_is_written_otherwise_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="not known"):
        strings.narrowed(f"root ::= ({rule})\n")
    with pytest.raises(ValueError, match="not known"):
        strings.narrowed('basic_string_sub ::= ([^"]*)\n')


def test_the_names_are_those_of_the_vocabulary() -> None:
    assert tags.CONTROL_NAMES.items() <= CONTROL_NAMES.items()


def formats(form: Any) -> set[str]:
    """Returns the kinds of formats in a tag; a schema is not looked into."""
    if isinstance(form, list):
        return set().union(*map(formats, form))
    if not isinstance(form, dict):
        return set()
    inner = [value for key, value in form.items() if key != "json_schema"]
    return {str(form.get("type"))} | formats(inner)


def test_nothing_is_left_that_the_older_xgrammar_does_not_know() -> None:
    tag = structural_tag(Constraint(tools=(WEATHER, LOOSE), schema=CITY)) or ""
    translated = json.loads(tags.translate(tag, schema_grammar))
    assert formats([translated]) - {"None"} == {"structural_tag", "sequence", "or", "grammar"}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "any_text"},
        {"type": "star", "content": {"type": "json_schema", "json_schema": True}},
        {"type": "token", "token": 7},
    ],
)
def test_a_format_that_the_service_does_not_write_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"any_text|star|token 7"):
        tags.translate(json.dumps({"type": "structural_tag", "format": form}), schema_grammar)


def test_the_engine_takes_a_held_request_and_a_biased_one(
    runtime: TrtllmRuntime,
    generate: Callable[..., Generate],
    drain: Callable[[TrtllmRuntime], dict[int, list[Output]]],
) -> None:
    tag = structural_tag(Constraint(schema=ANY_OBJECT))
    runtime.submit(generate(1, grammar=tag, max_tokens=2))
    runtime.submit(generate(2, logit_bias={3: 1.0}, max_tokens=2))
    done = drain(runtime)
    assert [done[number][-1].fault for number in (1, 2)] == [None, None]
