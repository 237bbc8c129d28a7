"""What the compiler makes of a schema allows nothing that the schema does not.

Every schema that is taken is compiled, and every text that its grammar allows must fit the schema
by the word of a validator of JSON Schema, draft 2020-12.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from serving.grammar.core import STOP_TOKENS, Compiled, Compiler, GrammarError
from serving.grammar.json_schema import Bounds, SchemaError, check
from serving.grammar.wording import in_other_words

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
HAS_A = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}
HAS_B = {"type": "object", "properties": {"b": INTEGER}, "required": ["b"]}

ASSERTIONS: list[dict[str, Any]] = [
    *({"type": name} for name in ("string", "number", "integer", "object", "array", "boolean")),
    *({"type": names} for names in (["string", "null"], ["integer", "string"])),
    *({"enum": values} for values in (["a", 1, None], ["ab", "abc"])),
    *({"const": value} for value in ("a", {"a": 1})),
    *({"properties": {"a": INTEGER}, "required": names} for names in ([], ["a"], ["c"])),
    {"properties": {"a": INTEGER, "b": INTEGER}},
    {"required": ["a"]},
    *({"additionalProperties": value} for value in (False, INTEGER, True)),
    {"unevaluatedProperties": False},
    {"patternProperties": {"^x": INTEGER}},
    *({"propertyNames": value} for value in ({"type": "string", "maxLength": 1}, {"enum": ["a"]})),
    *({"minProperties": 2}, {"maxProperties": 1}),
    *({"items": value} for value in (INTEGER, STRING, False)),
    {"prefixItems": [STRING, INTEGER]},
    *({"minItems": 2}, {"maxItems": 1}),
    *({"minLength": 2}, {"maxLength": 2}),
    *({"pattern": value} for value in ("^a", "b", "^[a-z]+$")),
    *({"format": value} for value in ("email", "date")),
    *({"minimum": value} for value in (2, 2.5)),
    *({"maximum": 5}, {"exclusiveMinimum": 2}, {"exclusiveMaximum": 5}),
    *({"multipleOf": value} for value in (2, 0.5)),
    *({name: [STRING, INTEGER]} for name in ("anyOf", "oneOf")),
    *({name: [HAS_A, HAS_B]} for name in ("anyOf", "oneOf")),
    {"oneOf": [INTEGER, {"type": "number"}]},
    *({"allOf": [value]} for value in (INTEGER, HAS_A)),
    *({"$ref": "#/$defs/x", "$defs": {"x": value}} for value in (STRING, HAS_A)),
]
TYPED = [{}, *(part for part in ASSERTIONS if isinstance(part.get("type"), str))]

VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 5, 6, 10, -1, 7.5, 0.5, 2.5, -3.25, 100),
    *("", "a", "ab", "abc", "aa", "A", "1", "a@b.co", "2020-01-01"),
    *([], [1], [1, 2], [1, 2, 3], ["a"], ["a", 1], ["a", 1, 2], [1, "a"], [[1]]),
    *({}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": "x"}, {"b": 2, "a": 1}),
    *({"a": 1, "b": 2, "c": 3}, {"x1": 1}, {"x1": "x"}, {"c": 1}, {"a": None}, {"a": [1]}),
]


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    """A compiler of texts byte by byte: what a grammar allows does not hang on the vocabulary."""
    return Compiler([bytes([byte]) for byte in range(256)], max(STOP_TOKENS) + 1)


def compile_schema(compiler: Compiler, schema: dict[str, Any]) -> Compiled | None:
    """Returns the grammar of a schema, None when it is refused."""
    try:
        check(schema, "", Bounds())
        form = {"type": "json_schema", "json_schema": in_other_words(schema)}
        tag = msgspec.json.encode({"type": "structural_tag", "format": form})
        return compiler.compile(tag.decode())
    except (SchemaError, GrammarError):
        return None


def allows(compiled: Compiled, value: Any) -> bool:
    """Returns whether a value may be written, and nothing more."""
    matcher = compiled.matcher()
    text = json.dumps(value).encode()
    return all(matcher.accept(byte) for byte in text) and matcher.accept(STOP_TOKENS[0])


def merged(parts: tuple[dict[str, Any], ...]) -> dict[str, Any] | None:
    """Returns the schema that has all parts, None when they are at odds."""
    keys = [key for part in parts for key in part]
    return None if len(set(keys)) < len(keys) else {k: v for part in parts for k, v in part.items()}


@pytest.mark.parametrize("typed", TYPED, ids=str)
def test_what_a_grammar_allows_fits_the_schema(compiler: Compiler, typed: dict[str, Any]) -> None:
    compiled_schemas = 0
    for pair in itertools.combinations_with_replacement(ASSERTIONS, 2):
        parts = (typed, pair[0]) if pair[0] is pair[1] else (typed, *pair)
        schema = merged(parts)
        compiled = None if schema is None else compile_schema(compiler, schema)
        if schema is None or compiled is None:
            continue
        compiled_schemas += 1
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        wide = [v for v in VALUES if allows(compiled, v) and not validator.is_valid(v)]
        assert not wide, schema
    assert compiled_schemas > 20


SUBSET: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "string", "pattern": "^@[a-z]+$"}, ["@abc"], ["abc", "@A"]),
    *(
        ({"type": "string", "format": form}, [good], ["no such thing"])
        for form, good in {
            "date-time": "2020-01-01T00:00:00Z",
            "time": "12:00:00Z",
            "date": "2020-01-01",
            "duration": "P1D",
            "email": "a@b.co",
            "hostname": "example.com",
            "ipv4": "127.0.0.1",
            "ipv6": "::1",
            "uuid": "550e8400-e29b-41d4-a716-446655440000",
        }.items()
    ),
    ({"type": "integer", "multipleOf": 5}, [0, 5, -10], [1, 12]),
    ({"type": "number", "multipleOf": 2}, [0, 4, -2], [1, 0.5]),
    (
        {"type": "integer", "multipleOf": 5, "minimum": 1, "exclusiveMaximum": 20},
        [5, 15],
        [0, 20, 6],
    ),
    (
        {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 0, "maximum": 1.5},
        [0.25, 1, 1.5],
        [0, 0.3, 1.75],
    ),
    ({"type": "number", "minimum": -130, "maximum": 130}, [-130, 0.5, 130], [131, -130.5]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1, 2]),
    ({"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2}, [[1]], [[], [1, 2, 3]]),
    ({"type": "string", "enum": ["a", "b"]}, ["a", "b"], ["c", 1]),
    ({"type": ["string", "null"]}, [None, "x"], [1]),
    ({"anyOf": [HAS_A, HAS_B]}, [{"a": 1}, {"b": 2}], [{"c": 1}, {}]),
    (
        {
            "type": "object",
            "properties": {"value": INTEGER, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        },
        [{"value": 1, "next": {"value": 2, "next": None}}],
        [{"value": 1}, {"value": 1, "next": 3}, {"value": 1, "next": None, "more": 1}],
    ),
    (
        {
            "type": "object",
            "properties": {"step": {"$ref": "#/$defs/step"}},
            "required": ["step"],
            "additionalProperties": False,
            "$defs": {"step": {**HAS_A, "additionalProperties": False}},
        },
        [{"step": {"a": 1}}],
        [{"step": {}}, {"step": {"a": 1, "b": 2}}],
    ),
]
"""OpenAI's subset for structured outputs, keyword by keyword."""


@pytest.mark.parametrize(("schema", "right", "wrong"), SUBSET, ids=[str(c[0])[:60] for c in SUBSET])
def test_the_subset_of_structured_outputs_works(
    compiler: Compiler, schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    compiled = compile_schema(compiler, schema)
    assert compiled is not None
    assert [value for value in right if not allows(compiled, value)] == []
    assert [value for value in wrong if allows(compiled, value)] == []


def test_a_schema_as_large_as_the_subset_allows_is_taken() -> None:
    names = [f"property_{number}" for number in range(5000)]
    wide = {"type": "object", "properties": dict.fromkeys(names, STRING), "required": names}
    check(wide, "", Bounds())
    deep: dict[str, Any] = {"type": "string", "enum": [f"value {n}" for n in range(1000)]}
    for _ in range(10):
        items = {"type": "array", "items": deep}
        deep = {"type": "object", "properties": {"a": items}, "required": ["a"]}
    check(deep, "", Bounds())
