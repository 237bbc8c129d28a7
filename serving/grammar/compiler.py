"""The grammar process as the API process sees it: asked one grammar at a time, killed when slow."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path

import msgspec

import serving
from serving.errors import ErrorKind, ServingError

START_SECONDS = 60.0
"""How long the process may take until it is ready; it takes about a second."""
ATTEMPTS = 2
"""Processes that a grammar may see die before it is held to be the reason."""


class CompilerProcess:
    """Compiles grammars to find out whether they can be used. The first one starts the process.

    For one caller at a time. `on_loss` is told why a process has ended that was not to end.
    """

    def __init__(
        self, ranks: Path, vocab_size: int, budget_seconds: float, on_loss: Callable[[str], None]
    ) -> None:
        self._command = [
            *(sys.executable, "-P", "-m", "serving.grammar.process"),
            *("--ranks", str(ranks), "--vocab-size", str(vocab_size)),
            *("--alarm-seconds", str(math.ceil(budget_seconds) + 1)),
        ]
        self._budget_seconds = budget_seconds
        self._on_loss = on_loss
        self._process: Process | None = None

    async def verdict(self, grammar: str) -> str | None:
        """Returns why a grammar cannot be used, "" when it can, None when the processes die of it.

        Raises TimeoutError when it takes longer than the budget, ServingError without a process.
        """
        for _ in range(ATTEMPTS):
            process = self._process or await self._start()
            try:
                async with asyncio.timeout(self._budget_seconds):
                    return await _exchange(process, grammar)
            except TimeoutError:
                await self._lose(
                    f"killed: a schema took more than {self._budget_seconds:g} seconds"
                )
                raise
            except (EOFError, OSError):
                await self._lose("it ended over a schema")
        return None

    async def end(self) -> int | None:
        """Kills the process, where there is one, frees what it held and returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            process.kill()
        await process.communicate()
        return process.returncode

    async def _lose(self, why: str) -> None:
        self._on_loss(f"{why}; exit code {await self.end()}")

    async def _start(self) -> Process:
        """Returns a process that is ready. Raises ServingError."""
        root = str(Path(serving.__file__).parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # the compiler writes parts of what clients sent there
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            async with asyncio.timeout(START_SECONDS):
                await _read(process)
        except (TimeoutError, EOFError, OSError):
            await self._lose("it did not start")
            raise ServingError(
                ErrorKind.INTERNAL, "The compiler of schemas does not start."
            ) from None
        return process


async def _exchange(process: Process, grammar: str) -> str:
    """Returns the process's verdict. Raises EOFError or OSError when it dies."""
    if process.stdin is None:
        raise EOFError
    process.stdin.write(msgspec.json.encode(grammar) + b"\n")
    await process.stdin.drain()
    return await _read(process)


async def _read(process: Process) -> str:
    """Returns the message of the next line. Raises EOFError when the process has ended."""
    line = b"" if process.stdout is None else await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return msgspec.json.decode(line, type=str)
