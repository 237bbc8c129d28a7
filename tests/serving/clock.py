"""A clock that only the test moves on."""

from __future__ import annotations


class Clock:
    """Called, it gives the seconds that the test has set."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds
