"""`multipleOf`, put in words that the grammar compiler keeps to.

xgrammar 0.2.8 knows it of integers without bounds. A number that is a multiple of a whole number is
an integer; multiples between two bounds can be listed, when they are few. The rest is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

MOST_LISTED: Final = 1024
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})

Node = Mapping[str, Any]


def can_be_held(node: Node) -> bool:
    """Returns whether the multiples that a schema asks for can be put so."""
    return not _needs_words(node) or _in_words(node) is not None


def in_words(node: Node) -> dict[str, Any] | None:
    """Returns a schema that allows the same; None where the compiler keeps to the one it is."""
    return _in_words(node) if _needs_words(node) else None


def _needs_words(node: Node) -> bool:
    """Returns whether the compiler would pass over the `multipleOf` of a schema."""
    if "multipleOf" not in node or "type" not in node:
        return False
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return "number" in kinds or ("integer" in kinds and bool(_BOUNDS & node.keys()))


def _in_words(node: Node) -> dict[str, Any] | None:
    kind, step = node.get("type"), Decimal(str(node["multipleOf"]))
    if kind not in ("integer", "number") or step <= 0:
        return None
    if not _BOUNDS & node.keys():
        whole = step == int(step)
        return {"type": "integer", "multipleOf": int(step)} if whole else None
    least = max(_bounds(node, "minimum", "exclusiveMinimum", step, 1), default=None)
    most = min(_bounds(node, "maximum", "exclusiveMaximum", step, -1), default=None)
    if least is None or most is None or not 0 <= most - least < MOST_LISTED:
        return None
    multiples = [step * count for count in range(least, most + 1)]
    values = [int(value) if value == int(value) else float(value) for value in multiples]
    kept = [value for value in values if kind == "number" or isinstance(value, int)]
    return {"enum": kept} if kept else None


def _bounds(node: Node, closed: str, opened: str, step: Decimal, inwards: int) -> list[int]:
    """Returns how many steps from 0 each bound of one side is, the first that is within."""
    towards = math.ceil if inwards > 0 else math.floor
    found = []
    if closed in node:
        found.append(towards(Decimal(str(node[closed])) / step))
    if opened in node:
        steps = Decimal(str(node[opened])) / step
        found.append(int(steps) + inwards if steps == int(steps) else towards(steps))
    return found
