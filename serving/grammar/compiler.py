"""The grammar process as the API process sees it: asked one grammar at a time, killed when slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from serving.boundary.child import Child
from serving.boundary.link import Link
from serving.errors import ErrorKind, ServingError

MODULE = "serving.grammar.process"
START_SECONDS = 60.0
"""How long the process may take until it is ready; it takes about a second."""
ATTEMPTS = 2
"""Processes that a grammar may see die before it is held to be the reason."""


class _Questions(Link[str, str]):
    """The link to one grammar process. For one question at a time."""

    def __init__(self) -> None:
        super().__init__(str)
        self._answer: asyncio.Future[str] = self.ready

    async def ask(self, grammar: str) -> str:
        """Returns the process's verdict. Raises EOFError when it dies."""
        if not self.is_open:
            raise EOFError
        self._answer = self._loop.create_future()
        self.write(grammar)
        return await self._answer

    def take(self, message: str) -> None:
        """Takes the verdict; the first message says that the process is ready."""
        if not self._answer.done():
            self._answer.set_result(message)

    def lose(self) -> None:
        """Ends the question, where there is one."""
        if self._answer is not self.ready and not self._answer.done():
            self._answer.set_exception(EOFError())


class CompilerProcess:
    """Compiles grammars to find out whether they can be used. The first one starts the process.

    For one caller at a time. `on_loss` is told why a process has ended that was not to end.
    """

    def __init__(
        self, ranks: Path, vocab_size: int, budget_seconds: float, on_loss: Callable[[str], None]
    ) -> None:
        self._options = ("--ranks", str(ranks), "--vocab-size", str(vocab_size))
        self._budget_seconds = budget_seconds
        self._on_loss = on_loss
        self._child: Child[_Questions] | None = None

    async def verdict(self, grammar: str) -> str | None:
        """Returns why a grammar cannot be used, "" when it can, None when the processes die of it.

        Raises TimeoutError when it takes longer than the budget, ServingError without a process.
        """
        for _ in range(ATTEMPTS):
            child = self._child or await self._start()
            try:
                async with asyncio.timeout(self._budget_seconds):
                    return await child.link.ask(grammar)
            except TimeoutError:
                await self._lose(
                    f"killed: a schema took more than {self._budget_seconds:g} seconds"
                )
                raise
            except EOFError:
                await self._lose("it ended over a schema")
        return None

    async def end(self, why: str = "the service stops") -> str:
        """Ends the process, where there is one; returns in one line why, and its exit code."""
        child, self._child = self._child, None
        return "" if child is None else await child.give_up(why)

    async def _lose(self, why: str) -> None:
        self._on_loss(await self.end(why))

    async def _start(self) -> Child[_Questions]:
        """Returns a process that is ready. Raises ServingError."""
        try:
            # Quiet: the compiler writes parts of what clients sent to its standard error.
            child = self._child = Child(_Questions(), MODULE, *self._options, quiet=True)
        except OSError as error:
            self._on_loss(f"it cannot be started: {error}")
            raise _no_compiler() from None
        if not await child.loaded(START_SECONDS):
            await self._lose("it did not start")
            raise _no_compiler()
        return child


def _no_compiler() -> ServingError:
    return ServingError(ErrorKind.INTERNAL, "The compiler of schemas does not start.")
