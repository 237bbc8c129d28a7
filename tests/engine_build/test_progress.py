"""What a log shows of a step."""

from __future__ import annotations

import io

from rich.console import Console

from engine_build.progress import Steps


def test_a_log_says_now_and_then_how_far_a_step_is() -> None:
    now = [0.0]
    output = io.StringIO()
    steps = Steps(Console(file=output), clock=lambda: now[0])
    with steps.step("Fetching", 13_800_000_000) as advance:
        for _ in range(25):
            now[0] += 1.0
            advance(100_000_000)
    assert output.getvalue().splitlines() == [
        "Fetching",
        "  1.0 GB of 13.8 GB, 100.0 MB/s, 0:02:08 left",
        "  2.0 GB of 13.8 GB, 100.0 MB/s, 0:01:58 left",
    ]


def test_a_step_without_a_total_is_one_line() -> None:
    now = [0.0]
    output = io.StringIO()
    steps = Steps(Console(file=output), clock=lambda: now[0])
    with steps.step("Registering") as advance:
        now[0] += 60
        advance(5)
    assert output.getvalue() == "Registering\n"
