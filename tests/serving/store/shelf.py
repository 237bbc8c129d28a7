"""Stores on one file, with a clock that the test sets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from serving.settings import Store
from serving.store.stores import Stores

TENANT = "acme"
PLENTY = 10**9


class Clock:
    """A time of day that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Shelf:
    """Stores on one file, and what they complained of."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.clock = Clock()
        self.failures: list[str] = []
        self._stack = stack

    def open(self, **settings: Any) -> Stores:
        """Returns stores under these settings."""
        stores = Stores(
            self.path,
            Store(**settings),
            now=self.clock,
            on_failure=self.failures.append,
        )
        self._stack.push_async_callback(stores.close)
        return stores


def item(name: str, text: str = "") -> dict[str, Any]:
    """Returns an item with an id and a text."""
    return {"id": name, "type": "message", "text": text}
