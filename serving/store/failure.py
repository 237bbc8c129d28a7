"""Why a database cannot be used, in a word that a metric can carry."""

from __future__ import annotations

import errno
import sqlite3
from enum import Enum


class Reason(Enum):
    """The values are metric labels."""

    LOCKED = "locked"
    """Another process keeps it locked."""
    FULL = "full"
    """The disk has no room, or the file may not grow."""
    READ_ONLY = "read_only"
    FORBIDDEN = "forbidden"
    """The file or its directory cannot be opened."""
    DAMAGED = "damaged"
    """It is no database, or a broken one."""
    SLOW = "slow"
    """The disk does not answer."""
    IO = "io"
    OTHER = "other"


_OF_SQLITE = {
    sqlite3.SQLITE_BUSY: Reason.LOCKED,
    sqlite3.SQLITE_LOCKED: Reason.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Reason.LOCKED,
    sqlite3.SQLITE_FULL: Reason.FULL,
    sqlite3.SQLITE_READONLY: Reason.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Reason.FORBIDDEN,
    sqlite3.SQLITE_PERM: Reason.FORBIDDEN,
    sqlite3.SQLITE_CORRUPT: Reason.DAMAGED,
    sqlite3.SQLITE_NOTADB: Reason.DAMAGED,
    sqlite3.SQLITE_IOERR: Reason.IO,
}
_OF_SYSTEM = {
    errno.ENOSPC: Reason.FULL,
    errno.EDQUOT: Reason.FULL,
    errno.EFBIG: Reason.FULL,
    errno.EROFS: Reason.READ_ONLY,
    errno.EACCES: Reason.FORBIDDEN,
    errno.EPERM: Reason.FORBIDDEN,
    errno.ENOTDIR: Reason.FORBIDDEN,
    errno.ENOENT: Reason.FORBIDDEN,
    errno.EEXIST: Reason.FORBIDDEN,
    errno.EIO: Reason.IO,
}


def reason_of(error: sqlite3.Error | OSError) -> Reason:
    """Returns why this error came."""
    if isinstance(error, OSError):
        return _OF_SYSTEM.get(error.errno or 0, Reason.OTHER)
    extended = getattr(error, "sqlite_errorcode", None)
    # The low byte of SQLite's extended codes is the code itself.
    return Reason.OTHER if extended is None else _OF_SQLITE.get(extended & 0xFF, Reason.OTHER)
