"""A file for stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.serving.store.shelf import Shelf


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncGenerator[Shelf]:
    """A place for stores, which are closed in the end."""
    async with AsyncExitStack() as stack:
        yield Shelf(tmp_path / "state" / "responses.sqlite3", stack)
