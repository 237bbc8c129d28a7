"""Bodies: JSON of bounded depth, and errors that name their place."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.errors import ErrorKind, ServingError
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.edge.body import decode, decode_json, require_json
from serving.settings import Limits


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b'{"a": NaN}', b"\xff\xfe", b'{"a": "\\ud800"}', b"[" * 100_000, b'"x"'],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ServingError) as refused:
        decode(body, ChatRequest, Limits())
    assert refused.value.kind is ErrorKind.INVALID_VALUE


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b'{"model": "\xff"}', 11),
        (b'{"model": "x", "\xc3": 1}', 16),
        ('{"é": "'.encode() + b'\xe2\x82"}', 8),
        (b'{"model": \xff}', 10),
        (b'\xff\xfe{\x00"\x00', 0),
        (b'{"model": "x", "deep": [{"er": "text \xed\xa0\x80"}]}', 37),
    ],
)
def test_what_is_not_utf8_is_named_by_its_place_in_the_body(body: bytes, offset: int) -> None:
    with pytest.raises(ServingError) as refused:
        decode(body, ChatRequest, Limits())
    assert f"not UTF-8: byte {offset} (0x{body[offset]:02x})" in refused.value.message


def test_nesting_is_bounded() -> None:
    decode_json(b"[" * 32 + b"]" * 32, 32)
    with pytest.raises(ServingError):
        decode_json(b"[" * 33 + b"]" * 33, 32)


def test_pydantic_s_own_errors_never_leave() -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"model": 5})
    with pytest.raises(ServingError):
        decode(b'{"model": 5}', ChatRequest, Limits())


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"Application/JSON; charset=utf-8",
        b'application/json; charset="UTF-8"',
        None,
    ],
)
def test_json_is_taken(content_type: bytes | None) -> None:
    require_json({"headers": [(b"content-type", content_type)] if content_type else []})


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded",
        b"application/vnd.bentoml+pickle",
        b"application/json; charset=utf-16",
        b"",
    ],
)
def test_anything_else_is_refused(content_type: bytes) -> None:
    with pytest.raises(ServingError) as refused:
        require_json({"headers": [(b"content-type", content_type)]})
    assert refused.value.kind is ErrorKind.UNSUPPORTED_MEDIA
