"""What would not be kept where it stands, and is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest

from serving.grammar.json_schema import Bounds, SchemaError, check

INTEGER = {"type": "integer"}
STRING = {"type": "string"}


def kind(name: str, **more: Any) -> dict[str, Any]:
    """Returns an object that says what it is."""
    return {
        "type": "object",
        "properties": {"kind": {"const": name}, **more},
        "required": ["kind"],
    }


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"minLength": 1}, "s.minLength"),
    ({"pattern": "a"}, "s.pattern"),
    ({"minimum": 1}, "s.minimum"),
    ({"minItems": 1}, "s.minItems"),
    ({"required": ["a"]}, "s.required"),
    ({"patternProperties": {"a": INTEGER}}, "s.patternProperties"),
    ({"type": "object", "required": ["a"]}, "s.required"),
    ({"properties": {"a": INTEGER}, "required": ["a", "b"]}, "s.required"),
    ({"type": "number", "multipleOf": 0.01}, "s.multipleOf"),
    ({"type": ["number", "null"], "multipleOf": 2}, "s.multipleOf"),
    ({"type": "integer", "multipleOf": 2, "minimum": 1}, "s.multipleOf"),
    ({"type": "integer", "multipleOf": 2, "minimum": 3, "maximum": 3}, "s.multipleOf"),
    ({"type": "integer", "multipleOf": 1, "minimum": 0, "maximum": 1024}, "s.multipleOf"),
    ({"type": "integer", "multipleOf": 0, "minimum": 0, "maximum": 9}, "s.multipleOf"),
    ({"type": "integer", "minimum": 1.5}, "s.minimum"),
    ({"type": "string", "pattern": "a", "format": "date"}, "s.pattern"),
    ({"type": "string", "pattern": "a", "maxLength": 2}, "s.maxLength"),
    ({"type": "string", "enum": ["a", None]}, "s.type"),
    ({"type": "integer", "const": 1.5}, "s.type"),
    ({"enum": ["a"], "maxLength": 2}, "s.maxLength"),
    ({"enum": ["a"], "const": "a"}, "s.const"),
    ({"$ref": "#/$defs/a", "$defs": {"a": STRING}, "maxLength": 2}, "s.maxLength"),
    ({"anyOf": [STRING, INTEGER], "type": "string"}, "s.type"),
    ({"type": "object", "anyOf": [{"required": ["a"]}]}, "s.type"),
    ({**kind("a"), "anyOf": [kind("b")]}, "s.properties"),
    ({"propertyNames": STRING, "type": "object", "properties": {}}, "s.propertyNames"),
    (
        {
            "properties": {"a": INTEGER},
            "patternProperties": {"b": INTEGER},
            "additionalProperties": True,
            "type": "object",
        },
        "s.patternProperties",
    ),
    ({"oneOf": [INTEGER, {"type": "number"}]}, "s.oneOf"),
    ({"oneOf": [STRING, {"const": "a"}]}, "s.oneOf"),
    ({"oneOf": [{"enum": [1, 2]}, {"enum": [2.0, 3]}]}, "s.oneOf"),
    ({"oneOf": [STRING, {}]}, "s.oneOf"),
    ({"oneOf": [kind("a"), kind("b"), kind("a", more=STRING)]}, "s.oneOf"),
    ({"oneOf": [kind("a"), {"type": "object", "properties": {"kind": STRING}}]}, "s.oneOf"),
    ({"oneOf": [{"const": n} for n in range(65)]}, "s.oneOf"),
    (
        {"items": {"oneOf": [STRING, {"$ref": "#/$defs/a"}]}, "$defs": {"a": STRING}},
        "s.items.oneOf",
    ),
]

TAKEN: list[dict[str, Any]] = [
    {"type": "string", "enum": ["a", "b"], "description": "D"},
    {"type": ["string", "null"], "enum": ["a", None]},
    {"type": "number", "enum": [1, 2.5]},
    {"type": "integer", "const": 1},
    {"type": "object", "anyOf": [kind("a"), kind("b")], "title": "T"},
    {"type": "integer", "multipleOf": 5},
    {"type": ["integer", "null"], "multipleOf": 5},
    {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1},
    {"type": "integer", "minimum": 1.0},
    {"oneOf": [STRING, INTEGER, {"type": "null"}, {"type": "array", "items": STRING}]},
    {"oneOf": [{"const": True}, {"const": 1}, {"enum": ["a"]}]},
    {"oneOf": [kind("a", more=STRING), kind("b", more=STRING)]},
    {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"a": kind("a", next={"$ref": "#"}), "b": {"allOf": [kind("b")]}},
    },
    {"oneOf": [{"anyOf": [STRING, {"type": "null"}]}, {"type": "boolean"}]},
    {"oneOf": [{"properties": {"a": {"$ref": "#"}}}, {"type": "null"}]},
]


@pytest.mark.parametrize(("schema", "path"), REFUSED, ids=[str(case[0])[:70] for case in REFUSED])
def test_it_is_refused_and_the_place_named(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(SchemaError) as refused:
        check(schema, "s", Bounds())
    assert refused.value.path == path
    assert refused.value.supported is False


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_it_is_taken(schema: dict[str, Any]) -> None:
    check(schema, "s", Bounds())


def test_schemas_that_refer_to_each_other_are_read_once() -> None:
    """Each level allows either of the next: there are 2 to the 30th ways down."""
    levels: dict[str, Any] = {
        f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2 + [{"const": n}]} for n in range(30)
    }
    levels["l30"] = INTEGER
    check({"oneOf": [{"$ref": "#/$defs/l0"}, STRING], "$defs": levels}, "s", Bounds())
