"""The log: lines of JSON."""

from __future__ import annotations

import io
import json

from serving.telemetry.logs import log_record, make_logger
from serving.telemetry.record import Record


def test_a_request_is_one_line_with_its_numbers() -> None:
    out = io.StringIO()
    record = Record(
        id="r1", route="chat.completions", outcome="aborted", code="client_closed_request",
        started=1.0, admitted=1.25, ended=2.0,
    )  # fmt: skip
    log_record(make_logger("info", out), record)
    (line,) = out.getvalue().splitlines()
    logged = json.loads(line)
    assert logged["request_id"] == "r1"
    assert logged["queue_seconds"] == 0.25
    assert logged["total_seconds"] == 1.0
    assert logged["first_token_seconds"] is None
    assert logged["abort_phase"] == "prefill"
    assert logged["level"] == "info"


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    log_record(make_logger("warning", out), Record(id="r1", route="x"))
    assert out.getvalue() == ""


def test_an_exception_is_one_line_too() -> None:
    out = io.StringIO()
    logger = make_logger("info", out)
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        logger.exception("failure", request_id="r1")
    (line,) = out.getvalue().splitlines()
    assert "broken" in json.loads(line)["exception"]
