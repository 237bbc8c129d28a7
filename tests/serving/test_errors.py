"""The one table of errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import serving
from serving.errors import ErrorKind, ServingError

ROOT = Path(serving.__file__).parent
GRPC_CODES = {
    "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED",
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_has_a_status_a_grpc_code_and_a_type_that_fit(kind: ErrorKind) -> None:
    mapping = kind.value
    assert 400 <= mapping.http_status < 600
    assert mapping.grpc_code in GRPC_CODES
    assert (mapping.type == "server_error") == (mapping.http_status >= 500)


def test_no_two_kinds_have_the_same_code() -> None:
    codes = [kind.value.code for kind in ErrorKind]
    assert len(set(codes)) == len(codes)


def test_every_kind_is_used() -> None:
    sources = [path for path in ROOT.rglob("*.py") if path.name != "errors.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert {kind.name for kind in ErrorKind} <= set(re.findall(r"ErrorKind\.([A-Z_]+)", text))


def test_the_body_is_openai_s() -> None:
    error = ServingError(ErrorKind.INVALID_VALUE, "No.", param="messages[0]")
    assert error.body == {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": "messages[0]",
            "code": "invalid_value",
        }
    }
