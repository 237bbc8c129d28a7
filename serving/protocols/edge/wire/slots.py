"""How many connections may be open, and which one goes when there are too many."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

RESERVE: Final = 16
"""Connections above the bound whose request is read: a probe is answered, all else is refused."""

MOST_FILES: Final = 16_384
"""What the soft limit of open files is raised to where the hard limit allows it."""

LOG_SECONDS: Final = 60.0
"""At most one line in this time says that connections are refused or closed."""


class Closed(Enum):
    """Why the server closed a connection. The value is the metric label."""

    SLOW_HEAD = "slow_head"
    """Its request's headers were not complete in time."""
    SLOW_READER = "slow_reader"
    """Its client did not take what was sent."""
    SILENT = "silent"
    """It had sent no request, and another needed its place."""
    IDLE = "idle"
    """It waited for its next request, and another needed its place."""
    FULL = "full"
    """Every place was taken by a request, the reserve too."""


class Waiting(Protocol):
    """A connection without a request."""

    def give_way(self) -> None:
        """Closes it; it no longer counts as open."""
        ...


class Slots:
    """Knows the connections that wait for a request, the longest first.

    `most` and `count_open` are set before the first connection. `on_closed` is told of each that is
    closed for a reason of ours, `on_short` from time to time while there are too many, in words.
    """

    def __init__(
        self,
        on_closed: Callable[[str], None],
        on_short: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_closed = on_closed
        self._on_short = on_short
        self._clock = clock
        self._silent: dict[Waiting, None] = {}
        self._idle: dict[Waiting, None] = {}
        self._told: float | None = None
        self.most = RESERVE
        self.count_open: Callable[[], int] = lambda: 0

    def wait(self, connection: Waiting, *, silent: bool) -> None:
        """Counts a connection as waiting: for its first request, or for another."""
        (self._silent if silent else self._idle)[connection] = None

    def leave(self, connection: Waiting) -> None:
        """Counts a connection as waiting no more: it has a request, or is gone."""
        self._silent.pop(connection, None)
        self._idle.pop(connection, None)

    def above(self, connections: int) -> int:
        """Returns by how many the open connections are too many, the new one among them.

        Where one waits for a request, the longest wait ends for it.
        """
        if connections <= self.most:
            return 0
        if self._make_way():
            connections -= 1
        self._tell(f"{self.most} connections are open, which is the most")
        return connections - self.most

    def count(self, closed: Closed) -> None:
        """Counts a connection that is closed."""
        self._on_closed(closed.value)

    def look_for_files(self) -> None:
        """Makes way while the process can open no file: accepting fails then, without a word."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            for _ in range(RESERVE):
                self._make_way()
            self._tell("no more files can be opened: new connections are lost")

    def _make_way(self) -> bool:
        for waiting, closed in ((self._silent, Closed.SILENT), (self._idle, Closed.IDLE)):
            if waiting:
                connection = next(iter(waiting))
                del waiting[connection]
                connection.give_way()
                self.count(closed)
                return True
        return False

    def _tell(self, what: str) -> None:
        now = self._clock()
        if self._told is None or now - self._told >= LOG_SECONDS:
            self._told = now
            self._on_short(what)


def raise_file_limit() -> int:
    """Raises this process's soft limit of open files as far as is sensible; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connections_within(files: int, wanted: int | None) -> int:
    """Returns how many connections there may be where `files` may be open: at most `wanted`.

    What is open now stays, and so does room for the reserve and for what requests open.
    """
    spare = max(64, files // 8) + RESERVE
    most = max(RESERVE, files - len(os.listdir("/dev/fd")) - spare)
    return most if wanted is None else min(wanted, most)
