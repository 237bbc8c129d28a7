"""The stall benchmark on a tiny engine: no stream is passed over, gaps are counted once."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from benchmarks import report, stall
from benchmarks.checkpoints import TINY, ensure
from benchmarks.stall import Load


def test_no_stream_is_passed_over_while_a_long_prompt_is_computed(tmp_path: Path) -> None:
    load = Load(streams=3, chunk_tokens=64, long_prompt_tokens=500, settle_steps=4)
    ticks = count()
    found = stall.measure(TINY, ensure(TINY, tmp_path), load, lambda: float(next(ticks)))
    # The clock ticks once a step: a gap of 1 is a token in every step.
    assert set(found.before) == {1.0}
    assert set(found.during) == {1.0}
    assert len(found.before) == 3 * 4
    assert len(found.during) >= 3 * (500 // 64)
    assert len(found.alone) >= 500 // 64
    assert found.skipped_steps == 0
    shown = stall.result(found, load, report.machine())
    assert all(goal.met for goal in shown.goals)


def test_a_stream_that_is_passed_over_is_seen() -> None:
    watch = stall._Watch(streams=2)
    everyone = frozenset({0, 1})
    watch.note(1.0, everyone)
    watch.note(1.0, everyone)
    watch.crowded = True
    watch.note(1.0, frozenset({0}))
    watch.note(1.0, everyone)
    assert watch.before == [1.0, 1.0]
    assert sorted(watch.during) == [1.0, 1.0, 2.0]
    assert watch.skipped_steps == 1
