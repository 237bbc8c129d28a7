"""What addresses take in their query: flags, numbers, and which page of a list is wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.datastructures import QueryParams
from starlette.types import Scope

from serving.errors import ErrorKind, ServingError

_LIMIT_MAX = 100
_LIMIT_DEFAULT = 20

PAGE: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": _LIMIT_MAX, "default": _LIMIT_DEFAULT},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string"},
}
"""The query that asks for a page, as the API describes it."""


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
    if not (_is_number(limit) and 1 <= int(limit) <= _LIMIT_MAX):
        raise wrong("limit", f"must be a number from 1 to {_LIMIT_MAX}")
    if order not in ("asc", "desc"):
        raise wrong("order", "must be 'asc' or 'desc'")
    return Paging(int(limit), order == "desc", query.get("after"))


def read_flag(query: QueryParams, name: str) -> bool:
    """Returns whether `name` is true. Raises ServingError for anything but true or false."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise wrong(name, "must be true or false")
    return value == "true"


def read_number(query: QueryParams, name: str) -> int | None:
    """Returns the number from 0 that `name` is, or None. Raises ServingError."""
    value = query.get(name)
    if value is not None and not _is_number(value):
        raise wrong(name, "must be a number from 0")
    return None if value is None else int(value)


def wrong(param: str, what: str) -> ServingError:
    """Returns the error for a part of the query."""
    return ServingError(ErrorKind.INVALID_VALUE, f"'{param}' {what}.", param=param)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
