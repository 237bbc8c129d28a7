"""How properties are tested here: the same examples each time, however busy the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

PROPERTY = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
