"""Schemas for TensorRT-LLM: integers get both bounds, what is not held is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serving.boundary.messages import Generate, Output
from serving.engines.trtllm import TrtllmRuntime, schemas
from serving.engines.trtllm.schemas import LARGEST
from serving.grammar.constraint import Constraint
from serving.grammar.structural_tag import structural_tag


@pytest.mark.parametrize(
    ("schema", "bounds"),
    [
        ({"type": "integer", "minimum": 1}, (1, LARGEST)),
        ({"type": "integer", "exclusiveMinimum": 1}, (None, LARGEST)),
        ({"type": "integer", "maximum": -3}, (-LARGEST, -3)),
        ({"type": ["integer", "null"], "exclusiveMaximum": 9}, (-LARGEST, None)),
        ({"type": "integer", "minimum": 1, "maximum": 2}, (1, 2)),
        ({"type": "integer"}, (None, None)),
        ({"type": "string", "minimum": 1}, (1, None)),
    ],
)
def test_an_integer_with_one_bound_gets_the_other(
    schema: dict[str, Any], bounds: tuple[int | None, int | None]
) -> None:
    found = schemas.held(schema)
    assert (found.get("minimum"), found.get("maximum")) == bounds
    assert schema.items() <= found.items()


@pytest.mark.parametrize(
    "place",
    [
        lambda inner: {"type": "object", "properties": {"minimum": inner}},
        lambda inner: {"type": "object", "additionalProperties": inner},
        lambda inner: {"type": "array", "items": inner},
        lambda inner: {"type": "array", "prefixItems": [inner]},
        lambda inner: {"anyOf": [{"type": "null"}, inner]},
        lambda inner: {"$defs": {"a": inner}, "$ref": "#/$defs/a"},
    ],
)
def test_a_schema_is_found_wherever_it_stands(place: Callable[[Any], Any]) -> None:
    assert schemas.held(place({"type": "integer", "minimum": 0})) == place(
        {"type": "integer", "minimum": 0, "maximum": LARGEST}
    )
    with pytest.raises(ValueError, match="multipleOf"):
        schemas.held(place({"type": "integer", "multipleOf": 5}))


def test_what_looks_like_a_schema_and_is_a_value_stays() -> None:
    plain: dict[str, Any] = {
        "enum": [{"type": "number", "minimum": 1}],
        "default": {"multipleOf": 3},
        "properties": {"multipleOf": {"type": "string"}, "maximum": True},
    }
    assert schemas.held(plain) == plain


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "minimum": 0},
        {"maximum": 1},
        {"type": ["number", "integer"], "exclusiveMinimum": 0},
    ],
)
def test_bounds_of_numbers_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bounds of a number"):
        schemas.held(schema)


def test_the_client_is_told(
    runtime: TrtllmRuntime,
    generate: Callable[..., Generate],
    drain: Callable[[TrtllmRuntime], dict[int, list[Output]]],
) -> None:
    tag = structural_tag(
        Constraint(schema={"type": "object", "properties": {"x": {"type": "number", "minimum": 0}}})
    )
    runtime.submit(generate(1, grammar=tag, max_tokens=2))
    fault = drain(runtime)[1][-1].fault
    assert fault is not None
    assert fault.kind == "invalid"
    assert fault.message == (
        "The engine does not take this request: bounds of a number in a schema cannot be held, "
        "those of an integer can"
    )
