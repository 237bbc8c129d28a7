"""Whether a JSON text is what a schema says, by exact and bounded work.

It knows the keywords that `json_schema` takes. `pattern`, `patternProperties` and `format` are left
to the grammar that held the text: no regular expression of a client runs here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import msgspec

from serving.grammar.json_schema import target

LEAST_STEPS: Final = 100_000
STEPS_A_CHARACTER: Final = 8
"""A schema of many branches times a text of many values: above this the text counts as unfit, after
a tenth of a second or so."""

Node = Mapping[str, Any]


def misfit(text: str, schema: Node) -> str:
    """Returns what is wrong with `text` as JSON that fits `schema`, as in `is not JSON`; or ""."""
    try:
        value = msgspec.json.decode(text)
        fits = _Fitting(schema, len(text)).fits(schema, value)
    except RecursionError:
        return "is nested too deeply"
    except _ExhaustedError:
        return "takes too long to compare with its schema"
    except (msgspec.DecodeError, UnicodeEncodeError):
        return "is not JSON"
    return "" if fits else "does not fit its schema"


class _ExhaustedError(Exception):
    """The comparison has taken all the steps that it may."""


class _Fitting:
    """Compares parts of one value with parts of one schema, each pair once."""

    def __init__(self, root: Node, characters: int) -> None:
        self._root = root
        self._steps = LEAST_STEPS + STEPS_A_CHARACTER * characters
        self._known: dict[tuple[int, int], bool] = {}

    def fits(self, node: Node | bool, value: Any) -> bool:
        """Returns whether the value fits. Raises _ExhaustedError, RecursionError."""
        if not isinstance(node, dict):
            return bool(node)
        key = (id(node), id(value))
        known = self._known.get(key)
        if known is None:
            self._steps -= 1
            if self._steps < 0:
                raise _ExhaustedError
            known = self._known[key] = self._compare(node, value)
        return known

    def _compare(self, node: Node, value: Any) -> bool:
        if "type" in node and not _is_of(node["type"], value):
            return False
        if "const" in node and not _equal(node["const"], value):
            return False
        if "enum" in node and not any(_equal(one, value) for one in node["enum"]):
            return False
        if "$ref" in node and not self.fits(_followed(node["$ref"], self._root), value):
            return False
        if "anyOf" in node and not any(self.fits(one, value) for one in node["anyOf"]):
            return False
        # Of no two of its schemas both can fit (`schema_rules`).
        if "oneOf" in node and not any(self.fits(one, value) for one in node["oneOf"]):
            return False
        if not all(self.fits(one, value) for one in node.get("allOf") or ()):
            return False
        match value:
            case bool() | None:
                return True
            case int() | float():
                return _number_fits(node, value)
            case str():
                return _is_within(len(value), node, "minLength", "maxLength")
            case list():
                return self._array_fits(node, value)
            case _:
                return self._object_fits(node, value)

    def _array_fits(self, node: Node, value: list[Any]) -> bool:
        first: list[Node | bool] = node.get("prefixItems") or []
        others: Node | bool = node.get("items", True)
        return (
            _is_within(len(value), node, "minItems", "maxItems")
            and all(self.fits(one, item) for one, item in zip(first, value, strict=False))
            and all(self.fits(others, item) for item in value[len(first) :])
        )

    def _object_fits(self, node: Node, value: dict[str, Any]) -> bool:
        if not _is_within(len(value), node, "minProperties", "maxProperties"):
            return False
        if any(name not in value for name in node.get("required") or ()):
            return False
        named = node.get("properties") or {}
        # A pattern may stand for a name, and which is not found out here.
        others: Node | bool = node.get(
            "additionalProperties", node.get("unevaluatedProperties", True)
        )
        if "patternProperties" in node:
            others = True
        names: Node | bool = node.get("propertyNames", True)
        return all(
            self.fits(named.get(name, others), part) and self.fits(names, name)
            for name, part in value.items()
        )


def _followed(reference: str, root: Node) -> Node | bool:
    found = target(reference, root)
    return found if isinstance(found, dict) else True


def _is_of(kinds: str | list[str], value: Any) -> bool:
    return any(_is_a(kind, value) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _is_a(kind: str, value: Any) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def _number_fits(node: Node, value: int | float) -> bool:
    return (
        ("minimum" not in node or value >= node["minimum"])
        and ("maximum" not in node or value <= node["maximum"])
        and ("exclusiveMinimum" not in node or value > node["exclusiveMinimum"])
        and ("exclusiveMaximum" not in node or value < node["exclusiveMaximum"])
        and ("multipleOf" not in node or _is_multiple(value, node["multipleOf"]))
    )


def _is_multiple(value: int | float, step: int | float) -> bool:
    """By the digits as they are written: 0.3 is a multiple of 0.1."""
    if not math.isfinite(value) or not step:
        return False
    return (Fraction(str(value)) / Fraction(str(step))).denominator == 1


def _is_within(size: int, node: Node, least: str, most: str) -> bool:
    highest = node.get(most)
    return (node.get(least) or 0) <= size and (highest is None or size <= highest)


def _equal(one: Any, other: Any) -> bool:
    """Returns whether two JSON values are the same: 1 is 1.0, and is not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)
