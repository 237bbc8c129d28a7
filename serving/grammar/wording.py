"""A schema in words that the grammar compiler keeps to.

xgrammar 0.2.8 lets a string that has a length, a long pattern or one of a few formats hold bare
control characters, which JSON does not; so these become patterns, and no pattern lets through what
a JSON string writes with a backslash. `multipleOf` has words of its own (`multiples`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from serving.grammar import multiples
from serving.grammar.characters import NEVER_BARE, without
from serving.grammar.schema_parts import SCHEMA_LISTS, SCHEMAS, SCHEMAS_BY_NAME

_LENGTHS: Final = ("minLength", "maxLength")
_ATOM: Final = r"[A-Za-z0-9_!#$%&'*+/=?^`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_POINTER: Final = r"(/([^~/\x00-\x1f\"\\]|~[01])*)*"
_FORMATS: Final = {
    "email": rf"^{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*$",
    "json-pointer": rf"^{_POINTER}$",
    "relative-json-pointer": rf"^(0|[1-9][0-9]*)(#|{_POINTER})$",
}
"""Those that the compiler writes with bare or wrongly escaped characters."""
_BARE: Final = without("[^]", NEVER_BARE)
_WIDE: Final = re.compile(r"\\[sSWD]|\\.|\[(?:\\.|[^\]\\])*\]|\.", re.DOTALL)
"""What of a pattern may stand for more characters than it names; any escape, to be passed over."""


def in_other_words(schema: Any) -> Any:
    """Returns a schema that allows the same, but for escapes in strings of a length or a pattern.

    Every `multipleOf` in it must be one that `multiples.can_be_held`.
    """
    if not isinstance(schema, dict):
        return schema
    if (listed := multiples.in_words(schema)) is not None:
        return listed
    changed = _with_texts(schema)
    for name in SCHEMAS_BY_NAME:
        if name in schema:
            changed[name] = {
                _bare(key) if name == "patternProperties" else key: in_other_words(part)
                for key, part in schema[name].items()
            }
    for name in SCHEMA_LISTS:
        if name in schema:
            changed[name] = [in_other_words(part) for part in schema[name]]
    for name in SCHEMAS:
        if name in schema:
            changed[name] = in_other_words(schema[name])
    return changed


def _with_texts(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keywords of a schema with its own strings in other words."""
    if isinstance(node.get("pattern"), str):
        return {**node, "pattern": _bare(node["pattern"])}
    if node.get("format") in _FORMATS:
        kept = {name: value for name, value in node.items() if name != "format"}
        return {**kept, "pattern": _FORMATS[node["format"]]}
    least, most = (node.get(name) for name in _LENGTHS)
    if least is None and most is None:
        return dict(node)
    kept = {name: value for name, value in node.items() if name not in _LENGTHS}
    return {**kept, "pattern": f"^{_BARE}{{{least or 0},{'' if most is None else most}}}$"}


def _bare(pattern: str) -> str:
    """Returns a pattern of the same strings as far as JSON writes them without a backslash."""
    return _WIDE.sub(lambda found: _narrow(found.group()), pattern)


def _narrow(part: str) -> str:
    if part == ".":
        return _BARE
    if part.startswith("["):
        return without(part, NEVER_BARE)
    return without(f"[{part}]", NEVER_BARE) if part[1] in "sSWD" else part
