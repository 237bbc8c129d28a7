"""Priority classes."""

from __future__ import annotations

from enum import IntEnum


class Lane(IntEnum):
    """A priority class. A lower number is served first."""

    P0 = 0
    P1 = 1
    P2 = 2
