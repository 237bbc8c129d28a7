"""A request body as a checked object: JSON of bounded depth, then the schema."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.fields import UNSUPPORTED
from serving.settings import Limits

Schema = TypeVar("Schema", bound=BaseModel)


def require_json(scope: Scope) -> None:
    """Raises ServingError (UNSUPPORTED_MEDIA) for a body that says it is anything but JSON.

    A body that does not say is taken for JSON.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind, _, parameters = value.partition(b";")
            charset = parameters.strip().lower().replace(b'"', b"")
            if kind.strip().lower() != b"application/json" or charset not in (
                b"",
                b"charset=utf-8",
            ):
                raise ServingError(
                    ErrorKind.UNSUPPORTED_MEDIA,
                    "The body must be JSON in UTF-8: content-type: application/json.",
                )


def decode(body: bytes, schema: type[Schema], limits: Limits) -> Schema:
    """Returns the body as `schema`. Raises ServingError that names the first wrong field."""
    return check(decode_object(body, limits), schema, limits)


def decode_object(body: bytes, limits: Limits) -> dict[str, Any]:
    """Returns the JSON object that a body is. Raises ServingError."""
    value = decode_json(body, limits.json_depth)
    if not isinstance(value, dict):
        raise ServingError(ErrorKind.INVALID_VALUE, "The body must be a JSON object.")
    return value


def check(value: dict[str, Any], schema: type[Schema], limits: Limits) -> Schema:
    """Returns an object as `schema`. Raises ServingError that names the first wrong field."""
    try:
        return schema.model_validate(value, context=limits)
    except ValidationError as error:
        raise describe(error) from None


def decode_json(body: bytes, depth: int) -> Any:
    """Returns the value of a JSON text nested at most `depth` deep. Raises ServingError."""
    try:
        value = msgspec.json.decode(body)
        too_deep = _deeper_than(value, depth)
    except RecursionError:
        too_deep = True
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = _first_no_utf8(body) or f"not JSON: {error}"
        raise ServingError(ErrorKind.INVALID_VALUE, f"The body is {why}.") from None
    if too_deep:
        raise ServingError(ErrorKind.INVALID_VALUE, f"The JSON is nested deeper than {depth}.")
    return value


def describe(error: ValidationError) -> ServingError:
    """Returns the first thing wrong, as an error that names its place like `messages[0].role`."""
    detail = error.errors(include_input=False, include_url=False)[0]
    context = detail.get("ctx", {})
    path = [part for part in detail["loc"] if not str(part).startswith("@")]
    if "field" in context:
        path.append(context["field"])
    param = _dotted(path)
    unsupported = detail["type"] in (UNSUPPORTED, "denied_field")
    kind = ErrorKind.UNSUPPORTED if unsupported else ErrorKind.INVALID_VALUE
    return ServingError(kind, f"'{param}': {detail['msg']}.", param=param)


def _first_no_utf8(body: bytes) -> str:
    """Returns where a body is no UTF-8, or "". msgspec counts from the string that it is in."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} (0x{body[error.start]:02x}), {error.reason}"
    return ""


def _dotted(path: list[int | str]) -> str:
    """Returns a path in OpenAI's form. A key of the client's own is shortened."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part[:64]}" if text else part[:64]
    return text


def _deeper_than(value: Any, depth: int) -> bool:
    """Returns whether objects and arrays stand more than `depth` deep in `value`."""
    level = [value]
    for _ in range(depth):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
