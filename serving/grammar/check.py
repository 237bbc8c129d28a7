"""Whether a grammar compiles, found out in a process that can be killed.

A schema of a few bytes can keep a compiler busy for minutes. What a client sends is therefore
compiled here first, under a budget of time and memory; only what passed goes to the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from serving.errors import ErrorKind, ServingError
from serving.grammar.compiler import CompilerProcess

REMEMBERED = 1024
"""Verdicts that are kept, by the hash of the grammar."""
SLOW_SECONDS = 300.0
"""How long a verdict is kept for which the machine may be the reason."""
RETRY_AFTER_SECONDS = 5.0


class _Verdict(NamedTuple):
    reason: str
    """Why the grammar cannot be used; empty: it can."""
    until: float
    """When it is to be found out again, by the clock."""


class _Judgement:
    """A grammar that waits for its verdict or gets it, for all who ask for the same one."""

    def __init__(self) -> None:
        self.task: asyncio.Task[_Verdict]
        self.waiters = 0
        self.begun = False


class GrammarCheck:
    """Checks grammars, one at a time and first come first served, with a bounded line before it."""

    def __init__(
        self,
        ranks: Path,
        vocab_size: int,
        budget_seconds: float,
        *,
        max_waiting: int,
        clock: Callable[[], float],
        on_loss: Callable[[str], None],
    ) -> None:
        """`on_loss` is told why a process has ended that was not to end."""
        self._compiler = CompilerProcess(ranks, vocab_size, budget_seconds, on_loss)
        self._budget_seconds = budget_seconds
        self._max_waiting = max_waiting
        self._clock = clock
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._judgements: dict[bytes, _Judgement] = {}
        self._turn = asyncio.Lock()
        self._closed = False

    async def require(self, grammar: str, param: str | None) -> None:
        """Returns when a grammar can be used.

        Raises ServingError: INVALID_VALUE with `param` when it cannot, OVERLOADED when too many
        wait. What the last one who waits for gives up is not compiled, unless that has begun.
        """
        key = hashlib.sha256(grammar.encode()).digest()
        verdict = self._verdicts.get(key)
        if verdict is None or verdict.until <= self._clock():
            verdict = await self._judged(key, grammar)
        else:
            self._verdicts.move_to_end(key)
        if verdict.reason:
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                f"The schema cannot be used: {verdict.reason}.",
                param=param,
            )

    async def close(self) -> None:
        """Ends the process for good. Checks that wait or are under way fail."""
        self._closed = True
        tasks = {judgement.task for judgement in self._judgements.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._compiler.end()

    async def _judged(self, key: bytes, grammar: str) -> _Verdict:
        judgement = self._judgements.get(key) or self._begin(key, grammar)
        judgement.waiters += 1
        try:
            await asyncio.wait({judgement.task})
        finally:
            judgement.waiters -= 1
            if not (judgement.waiters or judgement.begun):
                self._forget(key, judgement)
                judgement.task.cancel()
        if judgement.task.cancelled():
            raise _draining()
        return judgement.task.result()

    def _begin(self, key: bytes, grammar: str) -> _Judgement:
        """Puts a grammar into the line. Raises ServingError."""
        if self._closed:
            raise _draining()
        if len(self._judgements) > self._max_waiting:  # one of them has its turn
            raise ServingError(
                ErrorKind.OVERLOADED,
                "Too many schemas wait to be compiled. Try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        judgement = self._judgements[key] = _Judgement()
        judgement.task = asyncio.create_task(self._judge(key, grammar, judgement), name="grammar")
        judgement.task.add_done_callback(lambda task: self._over(key, judgement, task))
        return judgement

    async def _judge(self, key: bytes, grammar: str, judgement: _Judgement) -> _Verdict:
        async with self._turn:
            judgement.begun = True
            verdict = await self._verdict(grammar)
        self._verdicts[key] = verdict
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)
        return verdict

    async def _verdict(self, grammar: str) -> _Verdict:
        """Returns the verdict of the process. Raises ServingError."""
        try:
            reason = await self._compiler.verdict(grammar)
        except TimeoutError:
            reason = f"to compile it takes more than {self._budget_seconds:g} seconds"
        else:
            if reason is not None:
                return _Verdict(reason, math.inf)
            reason = "it cannot be compiled"  # the process died of its memory, or of a fault
        return _Verdict(reason, self._clock() + SLOW_SECONDS)

    def _over(self, key: bytes, judgement: _Judgement, task: asyncio.Task[_Verdict]) -> None:
        self._forget(key, judgement)
        if not task.cancelled():
            task.exception()  # looked at, for those who have left before it failed

    def _forget(self, key: bytes, judgement: _Judgement) -> None:
        if self._judgements.get(key) is judgement:
            del self._judgements[key]


def _draining() -> ServingError:
    return ServingError(ErrorKind.DRAINING, "The server is shutting down.")
