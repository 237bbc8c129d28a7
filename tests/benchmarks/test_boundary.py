from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from benchmarks import boundary


@pytest.mark.parametrize("pace_seconds", [0.0, 0.002])
def test_the_benchmark_counts_every_token(tmp_path: Path, pace_seconds: float) -> None:
    result = uvloop.run(
        boundary.measure(tmp_path / "engine", streams=4, tokens_each=50, pace_seconds=pace_seconds)
    )
    assert result.tokens == 200
    assert result.tokens_per_second > 0
    assert (result.share_of_pace is None) == (pace_seconds == 0)
    assert result.share_of_pace is None or result.share_of_pace <= 1.1
