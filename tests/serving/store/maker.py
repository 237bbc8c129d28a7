"""Another service on the same file, as a process that can be killed: it begins a response."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.settings import Store
from serving.store.stores import Stores
from tests.commands import REPOSITORY

TENANT = "default"
NAME = "resp_made_elsewhere"


def body(status: str) -> dict[str, object]:
    """Returns a response as it is stored, in short."""
    return {
        "id": NAME,
        "status": status,
        "previous_response_id": None,
        "background": True,
        "output": [],
    }


@contextmanager
def making(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that makes the response `NAME`, and lives until it is killed."""
    command = [sys.executable, "-m", "tests.serving.store.maker", str(path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


async def main() -> None:
    """Begins a response, and never ends it."""
    stores = Stores(
        Path(sys.argv[1]),
        Store(),
        now=time.time,
        on_change=lambda change: None,
        on_failure=lambda way, reason: None,
    )
    lost = body("failed")
    await stores.responses.begin(TENANT, body("in_progress"), [], lost=lost, events=b"")
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
