"""A process that leaves when the one that started it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

POLL_SECONDS = 1.0


async def leave_with_parent(
    *,
    parent: Callable[[], int] = os.getppid,
    leave: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Waits until this process has another parent than now, then asks it to end.

    A host that is killed cannot end its worker, which would keep the port and the engine's memory.
    """
    first = parent()
    while parent() == first:
        await pause(POLL_SECONDS)
    leave()
