"""One method of one address: who answers it, what it takes and gives.

A protocol brings a list of these; the routes and the description of the API are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import ASGIApp


class Operation(NamedTuple):
    """What it `takes` are the forms that a body may have, `gives` is the answer's type (None for
    one that is not JSON), `streams` what an event holds of the stream that comes with
    `"stream": true`, `query` the parameters by name."""

    method: str
    path: str
    endpoint: ASGIApp
    summary: str
    gives: Any = None
    takes: tuple[type[BaseModel], ...] = ()
    streams: Any = None
    query: Mapping[str, dict[str, Any]] = MappingProxyType({})
    unavailable: Any = None
    """What a 503 holds, where that is no error."""
    names: Sequence[str] | None = None
    """The values that `model` may have; None: the names of the language model."""


def make_routes(operations: Sequence[Operation]) -> list[Route]:
    """Returns the routes, in order."""
    return [
        Route(operation.path, operation.endpoint, methods=[operation.method])
        for operation in operations
    ]
