"""JSON texts against schemas, by the word of a validator of JSON Schema, draft 2020-12."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.grammar.fitting import misfit
from serving.grammar.json_schema import Bounds, SchemaError, check
from tests.serving.grammar.test_exactness import ASSERTIONS, SUBSET, VALUES, merged

LEFT_TO_THE_GRAMMAR = ("pattern", "patternProperties", "format")


def fits(value: Any, schema: dict[str, Any]) -> bool:
    return misfit(json.dumps(value), schema) == ""


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema)


def test_it_says_what_a_validator_says() -> None:
    compared = 0
    for parts in itertools.combinations(ASSERTIONS, 2):
        schema = merged(parts)
        if schema is None or any(name in schema for name in LEFT_TO_THE_GRAMMAR):
            continue
        try:
            check(schema, "", Bounds())
        except SchemaError:
            continue
        compared += 1
        valid = [value for value in VALUES if validator(schema).is_valid(value)]
        assert [value for value in VALUES if fits(value, schema)] == valid, schema
    assert compared > 50


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [case for case in SUBSET if not any(name in case[0] for name in LEFT_TO_THE_GRAMMAR)],
    ids=str,
)
def test_the_subset_of_structured_outputs(
    schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    assert [value for value in right if not fits(value, schema)] == []
    assert [value for value in wrong if fits(value, schema)] == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "ab", "ü"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
TREE: dict[str, Any] = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "anyOf": [
                {"type": "integer", "minimum": 0, "exclusiveMaximum": 10},
                {"type": "number", "multipleOf": 0.5},
                {"enum": ["a", None, [1, True]]},
                {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
                {
                    "type": "object",
                    "properties": {"a": {"$ref": "#/$defs/tree"}, "b": {"const": 1}},
                    "required": ["a"],
                    "additionalProperties": {"type": "string", "minLength": 2},
                    "minProperties": 2,
                },
            ]
        }
    },
}


@given(JSON_VALUES)
def test_values_of_any_shape(value: Any) -> None:
    assert fits(value, TREE) == validator(TREE).is_valid(value)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1} x', '{"a": 1}{"a": 1}', '"\t"', '"\\z"', '"\\udade"', "NaN", "01", "'a'"],
)
def test_what_is_not_json(text: str) -> None:
    assert misfit(text, {}) == "is not JSON"


def test_what_nobody_could_read() -> None:
    assert misfit("[" * 5000 + "]" * 5000, {}) == "is nested too deeply"


def chain(length: int, last: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema that asks twice at each of its levels."""
    levels = {
        f"t{level}": {
            "anyOf": [
                {
                    "properties": {"a": {"$ref": f"#/$defs/t{level + 1}"}, "b": {"const": number}},
                    "required": ["a", "b"],
                }
                for number in (1, 2)
            ]
        }
        for level in range(length)
    }
    return {"$ref": "#/$defs/t0", "$defs": {**levels, f"t{length}": last}}


@pytest.mark.parametrize("last", [{"type": "null"}, {"type": "string"}])
def test_branches_within_branches_take_no_exponential_time(last: dict[str, Any]) -> None:
    value: Any = None
    for _ in range(60):
        value = {"a": value, "b": 2}
    began = time.process_time()
    assert fits(value, chain(60, last)) == (last["type"] == "null")
    assert time.process_time() - began < 1.0


def test_what_takes_too_many_steps_does_not_fit() -> None:
    branches: list[Any] = [{"const": number} for number in range(8000)]
    schema = {"items": {"anyOf": [*branches, {"type": "number"}]}}
    assert misfit(json.dumps([0.5]), schema) == ""
    halves = json.dumps([number + 0.5 for number in range(100)])
    began = time.process_time()
    assert misfit(halves, schema) == "takes too long to compare with its schema"
    assert time.process_time() - began < 1.0
