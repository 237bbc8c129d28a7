"""One way to a database: a thread, a connection, and what is known of whether it works.

Whoever meets a failure waits for it once, for a bounded time. From then on nobody waits: the
database is left alone, and looked at again from time to time, until it works.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.settings import Store
from serving.store.failure import Reason, reason_of
from serving.store.tables import open_tables

Result = TypeVar("Result")
Work = Callable[[sqlite3.Connection], Result]

_BEHIND = 256
"""Pieces of work that nobody waits for and that may be in line."""
_RETRY_SECONDS = 0.02
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""What is the fault of a statement, and says nothing of the database."""
_PASSING = frozenset({Reason.LOCKED, Reason.FULL, Reason.IO})
"""What a connection outlives. On a full disk another could not be opened, not even to read."""


class Way(Enum):
    """What an access is for. The values are metric labels."""

    READ = "read"
    WRITE = "write"


class Change(NamedTuple):
    """An access has stopped to work, or works again: then `reason` is None."""

    way: Way
    reason: Reason | None
    detail: str


class Access:
    """Does work on the database of `path`, one piece after the other, each a transaction.

    A reading access waits for no writer and writes nothing. `on_change` is called, in any thread,
    when the database stops to work and when it works again; `on_failure` for each piece of work
    that was not done.
    """

    def __init__(
        self,
        way: Way,
        path: Path,
        settings: Store,
        on_change: Callable[[Change], None],
        on_failure: Callable[[Way, Reason], None],
        on_read_only: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_read_only` is called before it is looked whether the file can be written again."""
        self._way = way
        self._on_read_only = on_read_only
        self._path = path
        self._wait_seconds = settings.wait_seconds
        self._bypass_seconds = settings.bypass_seconds
        self._on_change = on_change
        self._on_failure = on_failure
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._failure: Reason | None = None
        self._look_at = -math.inf
        self._behind = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store-{way.value}")

    @property
    def works(self) -> bool:
        """False from a failure until the database has been found to work again."""
        return self._failure is None

    def require(self) -> None:
        """Raises ServingError (STORE_UNAVAILABLE) while the database is left alone."""
        if self._closed or not self.works:
            raise self._unavailable()

    async def run(self, work: Work[Result]) -> Result:
        """Returns what `work` returns. Raises ServingError (STORE_UNAVAILABLE), after one wait."""
        self._require_counted()
        self._loop = asyncio.get_running_loop()
        piece = _Piece(work)
        done = self._loop.run_in_executor(self._thread, self._transact, piece)
        try:
            # Twice: once in line behind another that waits for a lock, once for its own.
            await asyncio.wait({done}, timeout=2 * self._wait_seconds + 1.0)
            if not done.done():
                piece.given_up = True
                self._fail(Reason.SLOW, f"no answer in {2 * self._wait_seconds + 1.0:g} seconds")
                self._on_failure(self._way, Reason.SLOW)
                raise self._unavailable()
            return done.result()
        finally:
            done.cancel()

    def reconnect(self) -> None:
        """Has the next piece of work in line use another connection."""
        self._file = None
        self.run_behind(_read_something)

    def run_behind(self, work: Work[object]) -> None:
        """Does `work` when its turn comes, if it can be done: nobody is told."""
        if self._closed or not self.works or self._behind >= _BEHIND:
            return
        self._loop = asyncio.get_running_loop()
        self._submit_behind(self._loop, _Piece(work))

    async def close(self) -> None:
        """Closes the database when what is in line is done, and ends the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        await asyncio.wait({closing}, timeout=2 * self._wait_seconds + 1.0)
        self._thread.shutdown(wait=False)

    def _require_counted(self) -> None:
        if self._failure is not None:
            self._on_failure(self._way, self._failure)
        self.require()

    def _submit_behind(self, loop: asyncio.AbstractEventLoop, piece: _Piece[object]) -> None:
        def work() -> None:
            with suppress(ServingError):
                self._transact(piece)

        def over(done: asyncio.Future[None]) -> None:
            self._behind -= 1

        self._behind += 1
        loop.run_in_executor(self._thread, work).add_done_callback(over)

    def _transact(self, piece: _Piece[Result]) -> Result:
        """Returns what the piece of work returns. Raises ServingError. Runs in the thread."""
        if not piece.looks:
            # In line behind the one that has found it out.
            self._require_counted()
        try:
            connection = self._connected()
            try:
                connection.execute("BEGIN" if self._way is Way.READ else "BEGIN IMMEDIATE")
                result = piece.work(connection)
                if piece.given_up:
                    raise _GivenUpError
                connection.commit()
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.rollback()
                raise
        except _BUGS:
            raise
        except _GivenUpError:
            raise self._unavailable() from None
        except (msgspec.DecodeError, zlib.error):
            # One row is not what was written; others may well be.
            self._on_failure(self._way, Reason.DAMAGED)
            raise self._unavailable() from None
        except (sqlite3.Error, OSError) as error:
            reason = reason_of(error)
            if reason not in _PASSING:
                with suppress(sqlite3.Error):
                    self._disconnect()
            self._fail(reason, f"{self._path}: {error}")
            self._on_failure(self._way, reason)
            raise self._unavailable() from None
        if self._failure is not None:
            self._failure = None
            self._on_change(Change(self._way, None, str(self._path)))
        return result

    def _connected(self) -> sqlite3.Connection:
        """Returns a connection to the file that is in the path now. Raises sqlite3.Error, OSError.

        SQLite itself would go on with one that was deleted, and keep what nobody can find.
        """
        if self._connection is not None and self._file != _identity(self._path):
            self._disconnect()
        if self._connection is None:
            due = time.monotonic() + self._wait_seconds
            while self._connection is None:
                try:
                    self._connection = open_tables(self._path, self._wait_seconds)
                except sqlite3.OperationalError as error:
                    # Whoever makes the tables may hold a lock on which SQLite itself does not wait.
                    if reason_of(error) is not Reason.LOCKED or time.monotonic() >= due:
                        raise
                    time.sleep(_RETRY_SECONDS)
            self._file = _identity(self._path)
            if self._way is Way.READ:
                self._connection.execute("PRAGMA query_only = ON")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _fail(self, reason: Reason, detail: str) -> None:
        worked = self.works
        self._failure = reason
        self._look_at = time.monotonic() + self._bypass_seconds
        if worked:
            self._on_change(Change(self._way, reason, detail))
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has closed: nobody asks any more
                self._loop.call_soon_threadsafe(self._look_later)

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if self._loop is not None and not self._closed:
            self._look = self._loop.call_later(self._bypass_seconds, self._look_again)

    def _look_again(self) -> None:
        """Finds out whether the database works, so that no request has to."""
        if self._loop is not None and not self._closed:
            if self._failure is Reason.READ_ONLY:
                self._on_read_only()
            work = _read_something if self._way is Way.READ else _write_something
            self._submit_behind(self._loop, _Piece(work, looks=True))

    def _unavailable(self) -> ServingError:
        return ServingError(
            ErrorKind.STORE_UNAVAILABLE,
            "The store of responses cannot be used at the moment.",
            retry_after_seconds=max(1.0, self._look_at - time.monotonic()),
        )


class _Piece(Generic[Result]):
    """Work, whether somebody has stopped to wait for it, and whether it `looks` at a database that
    is left alone."""

    def __init__(self, work: Work[Result], *, looks: bool = False) -> None:
        self.work = work
        self.looks = looks
        self.given_up = False


class _GivenUpError(Exception):
    """Nobody waits for this any more, and somebody has been told that it was not done."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _read_something(connection: sqlite3.Connection) -> object:
    return connection.execute("SELECT max(number) FROM responses").fetchone()


def _write_something(connection: sqlite3.Connection) -> None:
    """Writes a page as it is, which a disk without room or a file without rights refuses."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")
