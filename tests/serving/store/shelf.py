"""Stores on one file, with a clock that the test sets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from serving.settings import Store
from serving.store.access import Change, Way
from serving.store.failure import Reason
from serving.store.stores import Stores
from tests.serving.clock import Clock

TENANT = "acme"
PLENTY = 10**9


class Shelf:
    """Stores on one file, and what they complained of."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.clock = Clock(1000.0)
        self.changes: list[Change] = []
        self.undone: list[tuple[Way, Reason]] = []
        self._stack = stack

    def open(self, **settings: Any) -> Stores:
        """Returns stores under these settings."""
        stores = Stores(
            self.path,
            Store(**settings),
            now=self.clock,
            on_change=self.changes.append,
            on_failure=lambda *failure: self.undone.append(failure),
        )
        self._stack.push_async_callback(stores.close)
        return stores


def item(name: str, text: str = "") -> dict[str, Any]:
    """Returns an item with an id and a text."""
    return {"id": name, "type": "message", "text": text}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of writers, as another process does."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()
