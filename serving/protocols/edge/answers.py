"""How answers are typed: as dicts of known keys, from which the API describes itself."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

open_ended = with_config(ConfigDict(extra="allow"))
"""Marks the type of an answer that may have more keys than these; others have no more."""

Json = dict[str, Any]


class ErrorObject(TypedDict):
    """What went wrong; `param` names the field of the request."""

    message: str
    type: str
    param: str | None
    code: str


class Error(TypedDict):
    """Any error, with any status."""

    error: ErrorObject
