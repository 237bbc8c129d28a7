"""The benchmark of the build's steps, on a small checkpoint."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks import build, build_step, report
from benchmarks.build import Plain
from benchmarks.build_step import STEPS, StepCost
from benchmarks.synthetic import generate
from tests.engine_build.checkpoints import SMALL

COST = StepCost(seconds=2.0, peak_bytes=10**8, written_bytes=1)
PLAIN = Plain(copy=1.0, hash=1.0, coreutils_hash=4.0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    generate(SMALL, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("step", list(STEPS))
def test_every_step_runs_and_says_what_it_took(step: str, checkpoint: Path, tmp_path: Path) -> None:
    cost = build_step.run(step, checkpoint, tmp_path / "target", SMALL, 1)
    assert cost.seconds > 0
    assert cost.peak_bytes > 10**6
    assert (cost.written_bytes > 0) == (step != "verify")
    assert cost.note


def test_the_plain_tools_and_the_steps_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the processes replaced: what is run, in which order, and the best of each."""
    (tmp_path / "checkpoint").mkdir()
    commands: list[str] = []
    costs = iter([COST] * len(STEPS) + [msgspec.structs.replace(COST, seconds=1.0)] * len(STEPS))

    class Finished:
        def __init__(self, command: list[str], **_options: object) -> None:
            commands.append(command[3] if "benchmarks.build_step" in command else command[0])
            if command[0] == "cp":
                Path(command[-1]).mkdir()
            self.stdout = (
                msgspec.json.encode(next(costs)) if "benchmarks.build_step" in command else b""
            )

    monkeypatch.setattr(subprocess, "run", Finished)
    monkeypatch.setattr(os, "sync", lambda: None)

    def clock() -> float:
        return next(ticks)

    ticks: Iterator[float] = iter(range(100))
    plain, best = build.measure(tmp_path, "gpt-oss-120b", 1, 2, 2, clock)
    assert commands == ["cp", "sha256sum", *STEPS] * 2
    assert plain == Plain(copy=1.0, hash=1.0, coreutils_hash=1.0)
    assert {cost.seconds for cost in best.values()} == {1.0}


def test_a_step_is_held_to_the_tools_that_do_the_same() -> None:
    costs = dict.fromkeys(STEPS, COST)
    spread = {1: COST, 2: msgspec.structs.replace(COST, seconds=1.25)}
    found = build.result("title", 10**9, PLAIN, costs, spread, report.machine())
    goals = {goal.what: goal for goal in found.goals}
    assert goals["verify / sha256"].value == 0.5
    assert not goals["verify / sha256"].met
    assert goals["shard / cp and sha256"].value == 1.0
    assert goals["shard / cp and sha256"].met
    assert goals["largest resident memory of a step (GB)"].value == 0.1
    assert goals["conversion, 2 workers against 1"].value == 1.6
    assert goals["conversion, 2 workers against 1"].met
    assert len(found.rows) == 3 + len(STEPS) + len(spread)


def test_a_machine_with_one_core_has_nothing_to_spread_over() -> None:
    found = build.result(
        "title", 10**9, PLAIN, dict.fromkeys(STEPS, COST), {1: COST}, report.machine()
    )
    assert not [goal for goal in found.goals if goal.what.startswith("conversion")]
