"""The worker and the process that started it, its host: neither stays without the other."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

GIVEN_UP = 70
"""The exit code of a service whose engine has been given up (EX_SOFTWARE)."""
POLL_SECONDS = 1.0


class Service(Protocol):
    """What the worker serves."""

    @property
    def alive(self) -> bool:
        """False once the engine has been given up."""
        ...


async def leave_with_parent(
    *,
    parent: Callable[[], int] = os.getppid,
    leave: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Waits until this process has another parent than now, then asks it to end.

    A host that is killed cannot end its worker, which would keep the port and the engine's memory.
    It is asked as by Ctrl-C, without notice: the next host wants the port.
    """
    first = parent()
    while parent() == first:
        await pause(POLL_SECONDS)
    leave()


async def end_with_engine(
    service: Service,
    *,
    ask: Callable[[], None] = lambda: os.kill(os.getppid(), signal.SIGUSR1),
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Waits until the engine has been given up, then asks the host to end: see `end_for_worker`."""
    while service.alive:
        await pause(POLL_SECONDS)
    ask()


def end_for_worker() -> None:
    """Makes this process, the host, end in order with the code `GIVEN_UP` when its worker asks."""
    asked = False

    def end(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        os.kill(os.getpid(), signal.SIGTERM)

    def leave() -> None:
        if asked:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(GIVEN_UP)  # BentoML's command ends with 0, whatever has happened

    signal.signal(signal.SIGUSR1, end)
    atexit.register(leave)
