"""Multiples in words that the compiler keeps to."""

from __future__ import annotations

from typing import Any

import pytest

from serving.grammar.constraint import Constraint
from serving.grammar.multiples import can_be_held
from serving.grammar.structural_tag import structural_tag
from serving.grammar.wording import in_other_words

HALVES = {"type": "number", "multipleOf": 0.5, "minimum": 1, "exclusiveMaximum": 2.5}
LISTED = {"enum": [1, 1.5, 2]}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (HALVES, LISTED),
        ({"type": "number", "multipleOf": 3.0}, {"type": "integer", "multipleOf": 3}),
        (
            {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 7, "maximum": 21.5},
            {"enum": [14, 21]},
        ),
        ({"type": "integer", "multipleOf": 1.5, "minimum": 0, "maximum": 6}, {"enum": [0, 3, 6]}),
        (
            {"type": "number", "multipleOf": 0.1, "minimum": -0.1, "maximum": 0.3},
            {"enum": [-0.1, 0, 0.1, 0.2, 0.3]},
        ),
    ],
)
def test_it_is_put_in_other_words(schema: dict[str, Any], words: dict[str, Any]) -> None:
    assert can_be_held(schema)
    assert in_other_words(schema) == words


def test_it_is_put_so_wherever_a_schema_stands_and_nowhere_else() -> None:
    schema = {
        "type": "object",
        "properties": {"a": HALVES, "multipleOf": {"const": HALVES}},
        "additionalProperties": False,
        "$defs": {"b": {"type": "array", "items": {"anyOf": [HALVES, {"type": "null"}]}}},
        "default": HALVES,
    }
    assert in_other_words(schema) == {
        "type": "object",
        "properties": {"a": LISTED, "multipleOf": {"const": HALVES}},
        "additionalProperties": False,
        "$defs": {"b": {"type": "array", "items": {"anyOf": [LISTED, {"type": "null"}]}}},
        "default": HALVES,
    }


def test_the_grammar_has_the_other_words() -> None:
    tag = structural_tag(Constraint(schema=HALVES))
    assert tag is not None
    assert "[1,1.5,2]" in tag
    assert "multipleOf" not in tag
