"""Which schemas can constrain an answer, and the place that a refusal names."""

from __future__ import annotations

from typing import Any

import pytest

from serving.grammar.json_schema import FORMATS, Bounds, SchemaError, check

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}

TAKEN: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"a": True}, "additionalProperties": False},
    {"type": ["string", "null"], "title": "T", "description": "D", "default": None, "x-any": 1},
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    {"type": "array", "items": {"$ref": "#"}},
    {"anyOf": [{"type": "string", "format": "date"}, {"type": "integer", "minimum": 1}]},
    {"oneOf": [{"const": 1}, {"enum": ["a", None]}], "discriminator": {"propertyName": "kind"}},
    {"allOf": [{"$ref": "#/$defs/node"}], "$defs": {"node": NODE}},
    {"type": "string", "pattern": r"^\d{3}-[a-z]+$"},
    {"type": "string", "minLength": 1, "maxLength": 9},
    {"type": "array", "prefixItems": [{"type": "string"}], "items": False, "uniqueItems": False},
    # A property may be called as a keyword is.
    {"type": "object", "properties": {"not": {"type": "string"}, "required": {"type": "null"}}},
]

REFUSED: list[tuple[Any, str, bool]] = [
    ([], "s", True),
    ({"type": "wat"}, "s.type", True),
    ({"type": []}, "s.type", True),
    ({"enum": []}, "s.enum", True),
    ({"properties": []}, "s.properties", True),
    ({"properties": {"a": {"type": 5}}}, "s.properties.a.type", True),
    ({"properties": {"a": {"not": {}}}}, "s.properties.a.not", False),
    ({"items": {"if": {}}}, "s.items.if", False),
    ({"uniqueItems": True}, "s.uniqueItems", False),
    ({"dependentRequired": {"a": ["b"]}}, "s.dependentRequired", False),
    ({"contains": {}}, "s.contains", False),
    ({"allOf": [{}, {}]}, "s.allOf", False),
    ({"anyOf": []}, "s.anyOf", True),
    ({"anyOf": [{}, 3]}, "s.anyOf[1]", True),
    ({"anyOf": [{}, False]}, "s.anyOf[1]", True),
    ({"$ref": "#/$defs/none"}, "s.$ref", True),
    ({"$ref": "https://example.com/schema"}, "s.$ref", True),
    ({"$ref": "#"}, "s", True),
    (
        {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}},
        "s",
        True,
    ),
    ({"format": "zip-code"}, "s.format", False),
    ({"pattern": 3}, "s.pattern", True),
    ({"pattern": "a" * 513}, "s.pattern", True),
    ({"pattern": "(?=x)y"}, "s.pattern", False),
    ({"pattern": r"(a)\1"}, "s.pattern", False),
    ({"patternProperties": {r"\p{L}": {}}}, r"s.patternProperties.\p{L}", False),
    ({"maxLength": 4097}, "s.maxLength", False),
    ({"maxItems": -1}, "s.maxItems", True),
    ({"maxItems": True}, "s.maxItems", True),
    ({"minLength": 5, "maxLength": 2}, "s.minLength", True),
    ({"minimum": "1"}, "s.minimum", True),
    ({"required": "a"}, "s.required", True),
]


@pytest.mark.parametrize("schema", TAKEN, ids=str)
def test_it_is_taken(schema: dict[str, Any]) -> None:
    check(schema, "s", Bounds())


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_known_format_is_taken(name: str) -> None:
    check({"type": "string", "format": name}, "s", Bounds())


@pytest.mark.parametrize(
    ("schema", "path", "valid"), REFUSED, ids=[str(case[0])[:60] for case in REFUSED]
)
def test_it_is_refused_and_the_place_named(schema: Any, path: str, valid: bool) -> None:
    with pytest.raises(SchemaError) as refused:
        check(schema, "s", Bounds())
    assert refused.value.path == path
    assert refused.value.supported is valid


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


def test_its_depth_size_and_number_of_schemas_are_bounded() -> None:
    check(nested(4), "s", Bounds(depth_max=4))
    with pytest.raises(SchemaError, match="4 levels") as refused:
        check(nested(5), "s", Bounds(depth_max=4))
    assert refused.value.path == "s.items.items.items.items"
    with pytest.raises(SchemaError, match="20 bytes"):
        check({"description": "x" * 20}, "s", Bounds(bytes_max=20))
    with pytest.raises(SchemaError, match="3 schemas"):
        check({"anyOf": [{}, {}, {}]}, "s", Bounds(nodes_max=3))
