"""Tool definitions, token for token as the library renders them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.harmony.conversation import Conversation, FunctionTool, System
from serving.harmony.render import render
from serving.harmony.schema import MAX_DEPTH, compact_json, tools_section
from serving.harmony.vocabulary import Vocabulary
from tests.serving.harmony.oracle import Oracle
from tests.serving.harmony.properties import PROPERTY

FORMS: dict[str, dict[str, Any] | None] = {
    "no parameters": None,
    "empty schema": {},
    "no properties": {"type": "object"},
    "empty properties": {"type": "object", "properties": {}},
    "properties that are no object": {"type": "object", "properties": ["a"]},
    "scalars": {
        "type": "object",
        "properties": {
            "s": {"type": "string"},
            "n": {"type": "number"},
            "i": {"type": "integer"},
            "b": {"type": "boolean"},
            "z": {"type": "null"},
            "u": {"type": "unheard-of"},
            "missing": {},
            "true": True,
            "text": "string",
            "type is a number": {"type": 3},
        },
        "required": ["s", "b", 7],
    },
    "required is no list": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": "a",
    },
    "enums": {
        "type": "object",
        "properties": {
            "letters": {"type": "string", "enum": ["a", "b"]},
            "default": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "mixed": {"type": "string", "enum": ["a", 1, None]},
            "numbers": {"type": "string", "enum": [1, 2]},
            "empty": {"type": "string", "enum": [], "default": "x"},
            "no list": {"type": "string", "enum": "abc", "default": "x"},
            "of numbers": {"type": "number", "enum": [1, 2], "default": 1},
            "untyped": {"enum": ["a", "b"], "default": "b"},
            "quotes": {"type": "string", "enum": ['say "hi"', "back\\slash"]},
        },
    },
    "defaults": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "default": 'a "quoted" word\n'},
            "integer": {"type": "integer", "default": -7},
            "big": {"type": "integer", "default": 18446744073709551615},
            "bigger": {"type": "integer", "default": 2**70},
            "float": {"type": "number", "default": 2.5},
            "whole float": {"type": "number", "default": 3.0},
            "large": {"type": "number", "default": 1e16},
            "largest plain": {"type": "number", "default": 123456789012345.0},
            "huge": {"type": "number", "default": 1.5e300},
            "small": {"type": "number", "default": 1e-5},
            "smaller": {"type": "number", "default": 2.5e-7},
            "negative zero": {"type": "number", "default": -0.0},
            "true": {"type": "boolean", "default": True},
            "null": {"type": "string", "default": None},
            "list": {"type": "array", "items": {"type": "string"}, "default": ["ä", "\u0001", 1]},
            "object": {"type": "object", "default": {"b": {"c": 1.0}, "a": []}},
        },
    },
    "nullable": {
        "type": "object",
        "properties": {
            "yes": {"type": "string", "nullable": True},
            "no": {"type": "string", "nullable": False},
            "odd": {"type": "string", "nullable": 1},
            "already": {"type": ["string", "null"], "nullable": True},
            "by name": {"type": "string", "enum": ["nullify"], "nullable": True},
            "object": {"type": "object", "properties": {"a": {"type": "null"}}, "nullable": True},
        },
    },
    "type lists": {
        "type": "object",
        "properties": {
            "both": {"type": ["integer", "string"], "default": -1},
            "one": {"type": ["string"]},
            "none": {"type": []},
            "no names": {"type": [1, 2]},
            "array": {"type": ["array", "null"], "items": {"type": "string"}},
        },
    },
    "arrays": {
        "type": "object",
        "properties": {
            "strings": {"type": "array", "items": {"type": "string"}},
            "nested": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            "anything": {"type": "array"},
            "untyped": {"type": "array", "items": {}},
            "tuple": {"type": "array", "items": [{"type": "string"}]},
            "enum": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
            "objects": {
                "type": "array",
                "description": "Several points.",
                "items": {
                    "type": "object",
                    "description": "A point.",
                    "properties": {"x": {"type": "number", "description": "Across."}},
                    "required": ["x"],
                },
            },
        },
    },
    "nested objects": {
        "type": "object",
        "description": "Outer.",
        "properties": {
            "inner": {
                "type": "object",
                "description": "Inner.",
                "properties": {
                    "deep": {
                        "type": "object",
                        "properties": {"leaf": {"type": "string", "default": "x"}},
                        "required": ["leaf"],
                    }
                },
            }
        },
    },
    "titles, descriptions and examples": {
        "type": "object",
        "title": "Not shown",
        "properties": {
            "a": {"type": "string", "title": "A title", "description": "A description"},
            "lines": {"type": "string", "description": "first\nsecond\r\nthird\n"},
            "examples": {"type": "string", "examples": ["x", 'y "z"', 3]},
            "no strings": {"type": "number", "examples": [1, 2]},
            "no examples": {"type": "string", "examples": []},
            "odd": {"type": "string", "title": 1, "description": ["no"], "examples": "no"},
            "all": {
                "oneOf": [{"type": "string"}],
                "title": "T",
                "description": "D",
                "examples": ["e"],
            },
        },
    },
    "oneOf at a property": {
        "type": "object",
        "properties": {
            "plain": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            "described": {
                "description": "Either.",
                "oneOf": [
                    {"type": "string", "description": "A word.", "default": "w"},
                    {"type": "number", "description": "A number.", "default": 3},
                ],
            },
            "shared": {
                "description": "Same.",
                "oneOf": [
                    {"type": "string", "description": "Same."},
                    {"type": "number", "description": "Same."},
                ],
            },
            "second shares": {
                "description": "Same.",
                "oneOf": [{"type": "string"}, {"type": "number", "description": "Same."}],
            },
            "defaults": {
                "default": "d",
                "oneOf": [
                    {"type": "string", "enum": ["d", "e"], "default": "e"},
                    {"type": "string", "nullable": True},
                ],
            },
            "enum default": {"default": "d", "enum": ["d"], "oneOf": [{"type": "string"}]},
            "empty": {"oneOf": []},
            "no list": {"oneOf": {"type": "string"}, "type": "string", "description": "x"},
            "no list, default": {"oneOf": 1, "type": "string", "default": "x"},
            "required": {"oneOf": [{"type": "boolean"}, True]},
            "objects": {
                "oneOf": [
                    {"type": "object", "properties": {"a": {"type": "string"}}},
                    {"type": "array", "items": {"oneOf": [{"type": "string"}]}},
                ]
            },
            "nested": {"oneOf": [{"oneOf": [{"type": "string"}, {"type": "number"}]}]},
        },
        "required": ["required"],
    },
    "oneOf at the top": {
        "oneOf": [
            {"type": "object", "description": "First.", "properties": {"a": {"type": "string"}}},
            {"type": "string", "enum": ["x"], "default": "x", "nullable": True},
            {"type": "string", "default": "y"},
            {"type": "integer", "default": 1, "description": "Last."},
        ],
        "description": "Top.",
    },
    "forms that have no type here": {
        "type": "object",
        "properties": {
            "anyOf": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"},
            "allOf": {"allOf": [{"type": "string"}]},
            "ref": {"$ref": "#/$defs/Thing", "default": 1},
            "const": {"const": "x"},
            "format": {"type": "string", "format": "date", "minLength": 1, "pattern": "^a$"},
        },
        "$defs": {"Thing": {"type": "string"}},
        "additionalProperties": False,
    },
    "names": {
        "type": "object",
        "properties": {"with space": {"type": "string"}, "日本": {"type": "string"}, "": {}},
        "required": ["日本"],
    },
    "not an object": {"type": "string", "description": "Not shown."},
    "an array": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
}


def prompt(parameters: dict[str, Any] | None, description: str = "Does it.") -> Conversation:
    tool = FunctionTool(name="act", description=description, parameters=parameters)
    return Conversation(system=System(), turns=(), tools=(tool,))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_rendered_as_the_library_renders_it(
    form: str, vocabulary: Vocabulary, oracle: Oracle
) -> None:
    conversation = prompt(FORMS[form])
    ours, theirs = render(conversation, vocabulary), oracle.render(conversation)
    assert vocabulary.decode(ours) == vocabulary.decode(theirs)
    assert ours == theirs


@pytest.mark.parametrize(
    "description", ["", "one", "one\ntwo", "one\r\ntwo\n", "\n", "\n\n", "cr\r", "a\rb", "  in  "]
)
def test_descriptions_of_tools_are_cut_into_lines_as_in_the_library(
    description: str, vocabulary: Vocabulary, oracle: Oracle
) -> None:
    conversation = prompt({"type": "object"}, description)
    assert render(conversation, vocabulary) == oracle.render(conversation)


def test_several_tools_keep_their_order(vocabulary: Vocabulary, oracle: Oracle) -> None:
    tools = tuple(FunctionTool(name=name, description=name.upper()) for name in ("b", "a", "c"))
    conversation = Conversation(system=System(), turns=(), tools=tools)
    assert render(conversation, vocabulary) == oracle.render(conversation)


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([0.5, -1.25, 3.0, 1e16, 1e-7, 0.0])
    | TEXT
)
KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(
        ["string", "number", "integer", "boolean", "array", "object", "null", ["string", "null"]]
    )
    | SCALARS,
    "description": TEXT | SCALARS,
    "title": TEXT,
    "default": SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(TEXT, SCALARS, max_size=2),
    "enum": st.lists(TEXT | SCALARS, max_size=3),
    "examples": st.lists(TEXT | SCALARS, max_size=3),
    "nullable": st.booleans(),
    "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
}


def schemas() -> st.SearchStrategy[Any]:
    """Returns schemas that are anything a client may send, with the keywords that matter often."""

    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        nested = {
            "items": inner,
            "oneOf": st.lists(inner, max_size=3) | inner,
            "properties": st.dictionaries(st.sampled_from(["a", "b"]) | TEXT, inner, max_size=3),
        }
        return st.fixed_dictionaries({}, optional=KEYWORDS | nested)

    return st.recursive(st.fixed_dictionaries({}, optional=KEYWORDS) | SCALARS, wider, max_leaves=8)


@PROPERTY
@given(schema=schemas().filter(lambda schema: isinstance(schema, dict)))
def test_any_schema_is_rendered_as_the_library_renders_it(
    vocabulary: Vocabulary, oracle: Oracle, schema: dict[str, Any]
) -> None:
    conversation = prompt(schema)
    ours, theirs = render(conversation, vocabulary), oracle.render(conversation)
    assert vocabulary.decode(ours) == vocabulary.decode(theirs)


@pytest.mark.parametrize("keyword", ["items", "oneOf", "properties"])
def test_a_schema_without_end_is_cut(keyword: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20 * MAX_DEPTH):
        if keyword == "items":
            schema = {"type": "array", "items": schema}
        elif keyword == "oneOf":
            schema = {"oneOf": [schema]}
        else:
            schema = {"type": "object", "properties": {"a": schema}}
    section = tools_section([FunctionTool(name="deep", parameters=schema)])
    assert "any" in section
    assert "string" not in section


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (-2.0, "-2.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (1.25e17, "1.25e17"),
        (0.00001234, "0.00001234"),
        (1e-7, "1e-7"),
        (float("inf"), "null"),
        (float("nan"), "null"),
        (2**64, "1.8446744073709552e19"),
        ({"a": [1, None, True, "ä\n"]}, '{"a":[1,null,true,"ä\\n"]}'),
        ((1, 2), "[1,2]"),
    ],
)
def test_json_is_compact_and_its_numbers_are_those_of_the_library(value: object, text: str) -> None:
    assert compact_json(value) == text


@PROPERTY
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_itself(value: float) -> None:
    assert json.loads(compact_json(value)) == value


def test_a_value_that_is_not_json_is_an_error() -> None:
    with pytest.raises(TypeError, match="set is not JSON"):
        compact_json({"a": {1}})
