"""The log: lines of JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys

from serving.telemetry.logs import log_record, make_logger
from serving.telemetry.record import Record


def test_a_request_is_one_line_with_its_numbers() -> None:
    out = io.StringIO()
    record = Record(
        id="r1", route="chat.completions", outcome="aborted", code="client_closed_request",
        started=1.0, admitted=1.25, ended=2.0,
    )  # fmt: skip
    log_record(make_logger("info", out), "request", record)
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
    log_record(make_logger("warning", out), "request", Record(id="r1", route="x"))
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


SAID = """
import asyncio, gc, logging, threading, warnings

logging.basicConfig(level="INFO")
named = logging.getLogger("bentoml")
named.addHandler(logging.StreamHandler())
named.propagate = False

from serving.telemetry.logs import take_over

take_over("info")
named.info("hello %s", "in\\ntwo")
logging.getLogger("uvicorn.error").warning("refused", extra={"client": "::1", "other": object()})
assert not logging.getLogger("uvicorn.access").hasHandlers()
warnings.warn("beware")

async def run():
    asyncio.get_running_loop().call_soon(int, "callback")
    await asyncio.sleep(0.01)

asyncio.run(run())
thread = threading.Thread(target=int, args=("thread",))
thread.start()
thread.join()

class Last:
    def __del__(self):
        int("finalizer")

Last()
gc.collect()
int("end")
"""


def test_whatever_a_process_has_to_say_is_a_line_of_json() -> None:
    ended = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("bentoml", "info"),
        ("uvicorn.error", "warning"),
        ("py.warnings", "warning"),
        ("asyncio", "error"),
        *[("python", "critical")] * 3,
    ]
    assert lines[0]["event"] == "hello in\ntwo"
    assert lines[1]["client"] == "::1"
    assert "other" not in lines[1]
    assert "beware" in lines[2]["event"]
    for line, said in zip(lines[3:], ("callback", "thread", "finalizer", "end"), strict=True):
        assert said in line["exception"]
    assert all(line["timestamp"] for line in lines)


class Writes(io.StringIO):
    """Keeps what each write held."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        """Keeps one write."""
        self.pieces.append(text)
        return super().write(text)


def test_a_line_is_one_write_so_that_processes_do_not_tear_each_other_s() -> None:
    file = Writes()
    make_logger("info", file).info("one")
    assert len(file.pieces) == 1
    assert file.pieces[0].endswith("}\n")
