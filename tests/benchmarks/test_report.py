"""Results are kept, shown and summarised as they were given."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.report import Goal, Result


def result(name: str, value: float) -> Result:
    return Result(
        name=name,
        title=f"Title of {name}",
        columns=("", "ours"),
        rows=(("decode", "12"),),
        goals=(Goal(what="times peer", value=value, wanted=2.0),),
        notes=("a note",),
        raw={"decode": [11.0, 12.0]},
        machine=report.machine(),
        measured=report.now(),
    )


def test_a_goal_is_met_on_its_own_side() -> None:
    assert Goal(what="", value=2.0, wanted=2.0).met
    assert not Goal(what="", value=1.9, wanted=2.0).met
    assert Goal(what="", value=1.9, wanted=2.0, at_least=False).met
    assert not Goal(what="", value=2.1, wanted=2.0, at_least=False).met


def test_the_summary_has_every_result_and_says_what_was_missed(tmp_path: Path) -> None:
    report.publish(result("a", 3.0), tmp_path)
    report.publish(result("b", 1.0), tmp_path)
    report.publish(result("b", 1.5), tmp_path)
    text = (tmp_path / report.SUMMARY_NAME).read_text()
    assert text.count("## Title of") == 2
    assert "| decode | 12 |" in text
    assert "- met: times peer: 3.00 (at least 2 wanted)" in text
    assert "- MISSED: times peer: 1.50 (at least 2 wanted)" in text
    kept = msgspec.json.decode((tmp_path / "a.json").read_bytes(), type=Result)
    assert kept.raw == {"decode": [11.0, 12.0]}


def test_the_table_names_the_machine() -> None:
    console = Console(record=True, width=200)
    report.show(result("a", 3.0), console)
    text = console.export_text()
    assert "Title of a" in text
    assert f"{report.machine().cores} cores" in text


def test_a_result_from_a_busy_machine_says_so(tmp_path: Path) -> None:
    for used, busy in ((0.0, False), (float(report.machine().cores), True)):
        facts = msgspec.structs.replace(report.machine(), busy_cores=used)
        report.publish(msgspec.structs.replace(result("a", 3.0), machine=facts), tmp_path)
        assert ("BUSY" in (tmp_path / report.SUMMARY_NAME).read_text()) is busy


def test_spread_is_relative_to_the_median() -> None:
    assert report.spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)
