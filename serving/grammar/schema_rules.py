"""Which keywords of JSON Schema count only beside which others, for the grammar compiler.

xgrammar 0.2.8 passes over an assertion that stands where it does not look for it, without a word:
`minLength` without `type`, `type` beside `anyOf`, a length beside a `pattern`. The answer would not
be held to it, so such a schema is refused. `oneOf` becomes `anyOf`, which is the same only for
schemas of which no value fits two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from serving.grammar import multiples

Node = Mapping[str, Any]

_STRINGS: Final = ("minLength", "maxLength", "pattern", "format")
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_ARRAYS: Final = ("items", "prefixItems", "minItems", "maxItems")
_OBJECTS: Final = (
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "unevaluatedProperties"),
)
_KINDS: Final = {
    **dict.fromkeys(_STRINGS, "string"),
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(_ARRAYS, "array"),
    **dict.fromkeys(_OBJECTS, "object"),
}
"""What each assertion is about."""
_GIVES_KIND: Final = frozenset(
    {"properties", "additionalProperties", "unevaluatedProperties", "items", "prefixItems"}
)
"""With these the compiler takes the type for granted."""
_WHOLES: Final = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
"""These say all that counts: the compiler looks at one of them, and at nothing beside it."""
_ALONE: Final = {
    "pattern": ("format",),
    "minLength": ("pattern", "format"),
    "maxLength": ("pattern", "format"),
    "propertyNames": (
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"),
    ),
}
"""The compiler keeps to one of these and forgets the other."""
_ANY: Final = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_KINDS_OF_VALUES: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_ANYTHING: Final[Node] = {}
_MOST_BRANCHES: Final = 64
"""Of `oneOf`: each is compared with each."""
_MOST_STEPS: Final = 8
"""References within references, and properties within properties, that are looked into."""


class Rules:
    """The rules for the schemas within one schema. `resolve` returns what a `$ref` leads to."""

    def __init__(self, resolve: Callable[[str], object]) -> None:
        self._resolve = resolve
        self._kinds: dict[int, frozenset[str]] = {}

    def broken(self, node: Node) -> Iterator[tuple[str, str]]:
        """Yields the keywords of a schema that would not be kept, and what is wrong with each."""
        wholes = [name for name in _WHOLES if name in node]
        yield from self._beside(wholes[0], node) if wholes else _alone(node)
        branches = node.get("oneOf", ())
        if len(branches) > _MOST_BRANCHES:
            yield "oneOf", f"may have {_MOST_BRANCHES} schemas at most"
        elif not self._all_apart(branches):
            yield (
                "oneOf",
                "needs schemas of which no value fits two: of different types, with different "
                "constants, or with a required property that has them; else say 'anyOf'",
            )

    def _beside(self, whole: str, node: Node) -> Iterator[tuple[str, str]]:
        """Yields the assertions beside a keyword that says all that counts."""
        for name in (*_WHOLES, *_KINDS):
            if name in node and name != whole:
                yield name, f"is not supported beside '{whole}'"
        if "type" in node and not self._kinds_of(node) <= _declared(node):
            yield "type", f"does not allow all that '{whole}' beside it does"

    def _all_apart(self, branches: Sequence[object]) -> bool:
        """Returns whether it can be told that no value fits two of these schemas."""
        nodes = [self._followed(branch) for branch in branches]
        return all(
            self._apart(one, other, _MOST_STEPS)
            for index, one in enumerate(nodes)
            for other in nodes[index + 1 :]
        )

    def _apart(self, one: Node, other: Node, steps: int) -> bool:
        kinds, others = self._kinds_of(one), self._kinds_of(other)
        if not kinds & others:
            return True
        constants, constants_of_other = _constants(one), _constants(other)
        if constants is not None and constants_of_other is not None:
            return not any(_equal(a, b) for a in constants for b in constants_of_other)
        if not steps or kinds != {"object"} or others != {"object"}:
            return False
        return any(
            self._apart(
                self._followed(one["properties"][name]),
                self._followed(other["properties"][name]),
                steps - 1,
            )
            for name in _required(one) & _required(other)
        )

    def _followed(self, node: object) -> Node:
        """Returns the schema that a reference, or an `allOf` of one, leads to in the end."""
        for _ in range(_MOST_STEPS):
            if not isinstance(node, dict):
                break
            if "$ref" in node:
                node = self._resolve(node["$ref"])
            elif len(node.get("allOf") or ()) == 1:
                node = node["allOf"][0]
            else:
                return node
        return _ANYTHING

    def _kinds_of(self, node: object) -> frozenset[str]:
        """Returns the types of the values that a schema may allow; `number` brings `integer`."""
        node = self._followed(node)
        if id(node) not in self._kinds:
            self._kinds[id(node)] = _ANY  # for a schema that leads back to itself
            self._kinds[id(node)] = self._read_kinds(node)
        return self._kinds[id(node)]

    def _read_kinds(self, node: Node) -> frozenset[str]:
        constants = _constants(node)
        if constants is not None:
            return frozenset(_KINDS_OF_VALUES[type(value)] for value in constants)
        for name in ("anyOf", "oneOf"):
            if name in node:
                return frozenset[str]().union(*(self._kinds_of(branch) for branch in node[name]))
        return _declared(node)


def _alone(node: Node) -> Iterator[tuple[str, str]]:
    """Yields the assertions that lack another beside them, or have one too much."""
    given = _given(node)
    for name, kind in _KINDS.items():
        if name in node and "type" not in node and kind not in given:
            yield name, f"needs 'type': '{kind}' beside it"
    if not multiples.can_be_held(node):
        yield (
            "multipleOf",
            f"of a fraction, or beside bounds, is supported between two bounds that have "
            f"{multiples.MOST_LISTED} multiples at most",
        )
    for name, others in _ALONE.items():
        for other in others:
            if name in node and other in node:
                yield name, f"is not supported beside '{other}'"
    open_ended = node.get("additionalProperties", False) is not False
    if "patternProperties" in node and "properties" in node and open_ended:
        yield "patternProperties", "is not supported beside these two: they would let all through"
    if "integer" in _listed(node):
        for name in _NUMBERS:
            if isinstance(node.get(name), float) and not node[name].is_integer():
                yield name, "must be a whole number beside 'type': 'integer'"
    properties = node.get("properties") or {}
    for name in node.get("required") or ():
        if name not in properties and "object" in _declared(node):
            yield "required", f"names '{name[:64]}', which 'properties' does not have"


def _required(node: Node) -> set[str]:
    """Returns the properties that must be there and have a schema."""
    return set(node.get("required") or ()) & (node.get("properties") or {}).keys()


def _declared(node: Node) -> frozenset[str]:
    """Returns what `type` allows, or what the compiler takes for granted without it."""
    if "type" in node:
        kinds = _listed(node)
        return frozenset([*kinds, "integer"] if "number" in kinds else kinds)
    return _given(node) or _ANY


def _given(node: Node) -> frozenset[str]:
    """Returns the types that the compiler takes for granted where none is named."""
    return frozenset(_KINDS[name] for name in _GIVES_KIND if name in node)


def _listed(node: Node) -> list[str]:
    kinds = node.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _constants(node: Node) -> list[Any] | None:
    if "const" in node:
        return [node["const"]]
    return node.get("enum")


def _equal(one: object, other: object) -> bool:
    """Returns whether two JSON values are the same; true is not 1."""
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    same_type = type(one) is type(other) or (numbers and bool not in (type(one), type(other)))
    return same_type and one == other
