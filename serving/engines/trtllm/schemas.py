"""A JSON schema as TensorRT-LLM's xgrammar holds it.

Found by compiling schemas with xgrammar 0.1.32 and following answers that fit and that do not: an
integer is held to a lower bound only beside an upper one, and to a negative upper one only beside a
lower one; bounds of numbers let wrong ones through and keep right ones out; `multipleOf` is passed
over. Every other keyword that the service takes was tried and is held as by its own 0.2.8.
"""

from __future__ import annotations

from typing import Any

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps (RFC 8259, section 6)."""

_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "propertyNames", "unevaluatedProperties")


def held(schema: Any) -> Any:
    """Returns the schema with both bounds where an integer has one.

    Raises ValueError, fit for a client, for what this engine does not hold.
    """
    if not isinstance(schema, dict):
        return schema
    whole = dict(schema)
    for key in _BY_NAME:
        if key in whole:
            whole[key] = {name: held(inner) for name, inner in whole[key].items()}
    for key in _LISTS:
        if key in whole:
            whole[key] = [held(inner) for inner in whole[key]]
    for key in _SINGLE:
        if key in whole:
            whole[key] = held(whole[key])
    return whole | _bounds(whole)


def _bounds(schema: dict[str, Any]) -> dict[str, int]:
    """Returns the bounds that are to be added."""
    named = schema.get("type", "number")
    types = {named} if isinstance(named, str) else set(named)
    bounded = any(key in schema for key in (*_LOWER, *_UPPER))
    if not types & {"number", "integer"}:
        return {}
    if "multipleOf" in schema:
        raise ValueError("multipleOf in a schema cannot be held")
    if bounded and "number" in types:
        raise ValueError("bounds of a number in a schema cannot be held, those of an integer can")
    if not bounded:
        return {}
    lower = {} if any(key in schema for key in _LOWER) else {"minimum": -LARGEST}
    upper = {} if any(key in schema for key in _UPPER) else {"maximum": LARGEST}
    return lower | upper
