"""Which JSON schemas can constrain an answer.

Keywords that the grammar compiler (xgrammar 0.2.8) turns into grammar are taken, annotations and
words that no draft knows are ignored as JSON Schema asks, and every other assertion is refused:
an answer that was promised to fit must fit. What the compiler would pass over where it stands is
refused too (`schema_rules`). One reading is narrower than the drafts': an object with `properties`
has no others unless `additionalProperties` says so.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from serving.grammar.schema_parts import SCHEMA_LISTS, SCHEMAS, SCHEMAS_BY_NAME
from serving.grammar.schema_rules import Rules

TYPES: Final = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})

FORMATS: Final = frozenset(
    {
        *("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri"),
        *("uri-reference", "uri-template", "uuid", "json-pointer", "relative-json-pointer"),
    }
)

UNSUPPORTED: Final = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems"),
        *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems"),
        *("additionalItems", "$dynamicRef", "$recursiveRef"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)

MOST_LENGTH: Final = 4096
"""The most that `minLength`, `maxItems` and their like may say: each costs compile time."""
MOST_PATTERN_CHARACTERS: Final = 512

_LENGTHS: Final = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Lookaround is ignored by the compiler and the others stop it.
_UNSUPPORTED_PATTERN: Final = re.compile(r"\(\?[=!<]|\\[1-9bBpPkAzZG]")


class SchemaError(ValueError):
    """A schema that cannot be used. `path` leads to the place, as in `a.properties.b`."""

    def __init__(self, path: str, message: str, *, supported: bool = True) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
        self.supported = supported
        """False where the schema is right but asks for what cannot be constrained."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How large a schema may be: of compact JSON, and levels of schemas within schemas."""

    bytes_max: int = 512 * 1024
    depth_max: int = 32
    nodes_max: int = 8192


def check(schema: object, path: str, bounds: Bounds) -> None:
    """Raises SchemaError, with the path below `path`, for a schema that cannot be used."""
    if not isinstance(schema, dict):
        raise SchemaError(path, "must be a JSON schema, an object")
    if len(msgspec.json.encode(schema)) > bounds.bytes_max:
        raise SchemaError(path, f"may have {bounds.bytes_max} bytes as JSON at most")
    waiting: list[tuple[str, object, int]] = [(path, schema, 1)]
    nodes = 0
    checked: list[tuple[str, Mapping[str, Any]]] = []
    equal: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    while waiting:
        here, node, depth = waiting.pop()
        nodes += 1
        if depth > bounds.depth_max:
            raise SchemaError(here, f"may be nested {bounds.depth_max} levels deep at most")
        if nodes > bounds.nodes_max:
            raise SchemaError(path, f"may hold {bounds.nodes_max} schemas at most")
        if node is True:
            continue
        if not isinstance(node, dict):
            raise SchemaError(here, "must be a JSON schema, an object or true")
        checked.append((here, node))
        waiting += [(where, child, depth + 1) for where, child in _children(node, here)]
        _check_node(node, here, schema)
        equal.add(id(node), *map(id, _same_place(node, schema)))

    try:
        equal.prepare()
    except graphlib.CycleError:
        raise SchemaError(
            path, "has a $ref that leads back to itself with nothing between"
        ) from None
    rules = Rules(lambda reference: target(reference, schema))
    for here, node in checked:
        for name, message in rules.broken(node):
            raise SchemaError(f"{here}.{name}", message, supported=False)


def _same_place(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[object]:
    """Yields the schemas that the very value of `node` must fit too, not a part of it."""
    if "$ref" in node:
        yield target(node["$ref"], root)
    for name in ("anyOf", "oneOf", "allOf"):
        yield from node.get(name) or ()


def _children(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    """Yields the schemas in a schema with their paths. Raises SchemaError for what is none."""
    for name in SCHEMAS_BY_NAME:
        named = node.get(name)
        if named is None:
            continue
        if not isinstance(named, dict):
            raise SchemaError(f"{path}.{name}", "must be an object of schemas")
        for key, child in named.items():
            yield f"{path}.{name}.{key}", child
    for name in SCHEMA_LISTS:
        listed = node.get(name)
        if listed is None:
            continue
        if not isinstance(listed, list) or not listed:
            raise SchemaError(f"{path}.{name}", "must be a list of schemas, not empty")
        for index, child in enumerate(listed):
            yield f"{path}.{name}[{index}]", child
    for name in SCHEMAS:
        # False closes an object or a list; as a schema of its own it would allow nothing.
        if name in node and node[name] is not False:
            yield f"{path}.{name}", node[name]


def _check_node(node: Mapping[str, Any], path: str, root: Mapping[str, Any]) -> None:
    """Checks the keywords of one schema, not those of the schemas in it."""
    for name in sorted(UNSUPPORTED & node.keys()):
        if node[name] is not False:
            raise SchemaError(f"{path}.{name}", "is not supported", supported=False)
    if len(node.get("allOf") or ()) > 1:
        raise SchemaError(f"{path}.allOf", "may have one schema only", supported=False)
    _check_type(node, path)
    _check_values(node, path)
    _check_lengths(node, path)
    _check_strings(node, path)
    _check_object(node, path)
    if "$ref" in node:
        _check_reference(node["$ref"], f"{path}.$ref", root)


def _check_type(node: Mapping[str, Any], path: str) -> None:
    if "type" not in node:
        return
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
        raise SchemaError(f"{path}.type", f"must be of {', '.join(sorted(TYPES))}")


def _check_values(node: Mapping[str, Any], path: str) -> None:
    if "enum" in node and (not isinstance(node["enum"], list) or not node["enum"]):
        raise SchemaError(f"{path}.enum", "must be a list of values, not empty")


def _check_lengths(node: Mapping[str, Any], path: str) -> None:
    for name in _LENGTHS:
        value = node.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 0:
            raise SchemaError(f"{path}.{name}", "must be a whole number, not negative")
        if value > MOST_LENGTH:
            raise SchemaError(f"{path}.{name}", f"may be {MOST_LENGTH} at most", supported=False)
    for low, high in (_LENGTHS[0:2], _LENGTHS[2:4], _LENGTHS[4:6]):
        if (node.get(low) or 0) > node.get(high, MOST_LENGTH):
            raise SchemaError(f"{path}.{low}", f"is more than {high}")
    for name in _NUMBERS:
        if name in node and type(node[name]) not in (int, float):
            raise SchemaError(f"{path}.{name}", "must be a number")


def _check_strings(node: Mapping[str, Any], path: str) -> None:
    form = node.get("format")
    if form is not None and not (isinstance(form, str) and form in FORMATS):
        known = ", ".join(sorted(FORMATS))
        raise SchemaError(f"{path}.format", f"must be one of {known}", supported=False)
    if "pattern" in node:
        _check_pattern(node["pattern"], f"{path}.pattern")
    for pattern in node.get("patternProperties") or ():
        _check_pattern(pattern, f"{path}.patternProperties.{pattern[:64]}")


def _check_pattern(pattern: object, path: str) -> None:
    if not isinstance(pattern, str):
        raise SchemaError(path, "must be a regular expression")
    if len(pattern) > MOST_PATTERN_CHARACTERS:
        raise SchemaError(path, f"may have {MOST_PATTERN_CHARACTERS} characters at most")
    if _UNSUPPORTED_PATTERN.search(pattern):
        raise SchemaError(
            path,
            "may not look around, refer back, or use word borders and Unicode classes",
            supported=False,
        )


def _check_object(node: Mapping[str, Any], path: str) -> None:
    required = node.get("required")
    if required is not None and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise SchemaError(f"{path}.required", "must be a list of names")


def _check_reference(reference: object, path: str, root: Mapping[str, Any]) -> None:
    """Takes `#` and JSON pointers within the schema itself that lead to a schema."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise SchemaError(path, "must lead to a place in the schema itself, as #/$defs/name")
    if not isinstance(target(reference, root), dict):
        raise SchemaError(path, f"leads nowhere: {reference[:200]}")


def target(reference: str, root: Mapping[str, Any]) -> object:
    """Returns what a local reference leads to, or None."""
    found: object = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found
