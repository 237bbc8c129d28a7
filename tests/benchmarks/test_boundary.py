from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import boundary, report
from benchmarks.boundary import BoundaryCost


@pytest.mark.parametrize("pace_seconds", [0.0, 0.002])
def test_the_benchmark_counts_every_token(tmp_path: Path, pace_seconds: float) -> None:
    cost = boundary.run(tmp_path / "engine", pace_seconds=pace_seconds, streams=4, tokens_each=50)
    assert cost.tokens == 200
    assert pace_seconds * 49 <= cost.seconds
    assert cost.tokens_per_wake >= 1


def test_the_goals_are_judged_on_the_paced_medians() -> None:
    def cost(seconds: float, client_us: float) -> BoundaryCost:
        return BoundaryCost(
            tokens=64_000, seconds=seconds, client_us=client_us, host_us=1.0, tokens_per_wake=1.0
        )

    paced = [cost(2.0, 1.5), cost(2.0, 2.5), cost(4.0, 9.0)]
    found = boundary.result(paced, [cost(0.1, 99.0)] * 3, report.machine())
    assert [goal.value for goal in found.goals] == [pytest.approx(1.0), 2.5]
    assert all(goal.met for goal in found.goals)
    assert found.rows[1][1] == "640,000"
