from __future__ import annotations

import dataclasses

from serving.boundary.lifecycle import Policy


def test_the_backoff_doubles_up_to_its_limit() -> None:
    policy = Policy()
    waits = [policy.backoff_seconds(failures) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert dataclasses.replace(policy).backoff_seconds(10_000) == 60
