"""What the addresses of stored things take in their query: pages, and parts to include."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams
from starlette.types import Scope

from serving.errors import ErrorKind, ServingError
from serving.protocols.responses.items import seal
from serving.protocols.responses.schema import ENCRYPTED_REASONING, INCLUDABLE

Json = dict[str, Any]

LIMIT_MAX = 100
_LIMIT_DEFAULT = 20


INCLUDE = {"include": {"type": "array", "items": {"enum": sorted(INCLUDABLE)}}}
PAGE: dict[str, Json] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": _LIMIT_DEFAULT},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string"},
    **INCLUDE,
}
RESUMED: dict[str, Json] = {
    "stream": {"type": "boolean", "default": False},
    "starting_after": {"type": "integer", "minimum": 0},
    **INCLUDE,
}


class Paging(NamedTuple):
    """Which items are listed: `limit` of them from behind that with the id `after`."""

    limit: int
    newest_first: bool
    after: str | None


def query_of(scope: Scope) -> QueryParams:
    """Returns the query of a request."""
    return QueryParams(scope["query_string"])


def read_paging(query: QueryParams) -> Paging:
    """Returns what `limit`, `order` and `after` ask for. Raises ServingError."""
    limit, order = query.get("limit", str(_LIMIT_DEFAULT)), query.get("order", "desc")
    if not (_is_number(limit) and 1 <= int(limit) <= LIMIT_MAX):
        raise _wrong("limit", f"must be a number from 1 to {LIMIT_MAX}")
    if order not in ("asc", "desc"):
        raise _wrong("order", "must be 'asc' or 'desc'")
    return Paging(int(limit), order == "desc", query.get("after"))


def read_includes(query: QueryParams) -> frozenset[str]:
    """Returns the parts that `include` or `include[]` names. Raises ServingError for others."""
    named = [*query.getlist("include"), *query.getlist("include[]")]
    for name in named:
        if name not in INCLUDABLE:
            raise _wrong("include", f"has no such part: '{name[:64]}'")
    return frozenset(named)


def read_flag(query: QueryParams, name: str) -> bool:
    """Returns whether `name` is true. Raises ServingError for anything but true or false."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise _wrong(name, "must be true or false")
    return value == "true"


def read_number(query: QueryParams, name: str) -> int | None:
    """Returns the number from 0 that `name` is, or None. Raises ServingError."""
    value = query.get(name)
    if value is not None and not _is_number(value):
        raise _wrong(name, "must be a number from 0")
    return None if value is None else int(value)


def listed(items: Sequence[Mapping[str, Any]], includes: frozenset[str], *, has_more: bool) -> Json:
    """Returns one page as a list."""
    return {
        "object": "list",
        "data": [with_included(item, includes) for item in items],
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def with_included(item: Mapping[str, Any], includes: frozenset[str]) -> Mapping[str, Any]:
    """Returns an item with the parts that it can have and that were asked for."""
    if item["type"] == "reasoning" and ENCRYPTED_REASONING in includes:
        texts: Sequence[Mapping[str, str]] = item.get("content") or item["summary"]
        return {**item, "encrypted_content": seal("".join(part["text"] for part in texts))}
    return item


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _wrong(param: str, what: str) -> ServingError:
    return ServingError(ErrorKind.INVALID_VALUE, f"'{param}' {what}.", param=param)
