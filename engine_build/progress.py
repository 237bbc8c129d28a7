"""What a person sees of a build: a bar for every step that takes long enough to wonder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from engine_build.durable import Advance

LINE_SECONDS = 10.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step that has ended, well or not."""

    name: str
    seconds: float
    size_bytes: int | None = None
    """How many bytes it had to move; None where that says nothing."""


@dataclass(slots=True)
class Steps:
    """Shows the steps of a build on a console and remembers how long each took.

    On a terminal a step is a live bar that is wiped when the step ends; elsewhere (a log) it is
    one line when it begins, and one now and then of how far it is.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, total_bytes: int | None = None) -> Iterator[Advance]:
        """Runs one step; what it yields takes the bytes done. Without a total: a spinner."""
        started = self.clock()
        try:
            if not self.console.is_terminal:
                self.note(name)
                yield _Lines(self, total_bytes, started)
                return
            with Progress(*_columns(total_bytes), console=self.console, transient=True) as bars:
                task = bars.add_task(name, total=total_bytes)
                yield lambda done_bytes: bars.advance(task, done_bytes)
        finally:
            seconds = round(self.clock() - started, 3)
            self.done.append(Step(name=name, seconds=seconds, size_bytes=total_bytes))

    def note(self, line: str) -> None:
        """Says something above the bar, if there is one."""
        self.console.print(line, highlight=False, soft_wrap=True)


@dataclass(slots=True)
class _Lines:
    """The Advance of a step without a bar: bytes, rate and time left, every few seconds."""

    steps: Steps
    total_bytes: int | None
    started: float
    done_bytes: int = 0
    told: float = 0.0

    def __call__(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
        now = self.steps.clock()
        if self.total_bytes is None or now - max(self.told, self.started) < LINE_SECONDS:
            return
        self.told = now
        rate = self.done_bytes / (now - self.started)
        left_seconds = round((self.total_bytes - self.done_bytes) / max(rate, 1.0))
        self.steps.note(
            f"  {filesize.decimal(self.done_bytes)} of {filesize.decimal(self.total_bytes)}, "
            f"{filesize.decimal(int(rate))}/s, {timedelta(seconds=left_seconds)} left"
        )


def _columns(total_bytes: int | None) -> list[ProgressColumn]:
    name = TextColumn("{task.description}")
    if total_bytes is None:
        return [SpinnerColumn(), name, TimeElapsedColumn()]
    return [name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
