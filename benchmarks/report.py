"""What a benchmark found: shown as a table, kept as JSON, and gathered in one Markdown summary.

Every number in the README is copied from the summary, so each result carries the machine it was
measured on and how busy that machine was with other things.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from serving.hosting.machine import processors

STATE = Path(".state/benchmarks")
CHECKPOINTS = STATE / "checkpoints"
RESULTS = STATE / "results"
SUMMARY_NAME = "summary.md"
# Share of the cores that others may use before a benchmark's figures are not the machine's own.
QUIET_SHARE = 0.1


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A promise and what was found. `at_least` False: the value must not be above `wanted`."""

    what: str
    value: float
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """True when the value is on the promised side."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a result was measured, and how many of its cores others used just before."""

    processor: str
    cores: int
    python: str
    torch: str
    busy_cores: float = 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's findings. `raw` holds what the table was made from."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    raw: dict[str, list[float]] = {}
    machine: Machine
    measured: str


def machine() -> Machine:
    """Returns the facts of this machine, watching it for half a second.

    Call it before the work that is measured: what runs then counts as others' use.
    """
    return Machine(
        processor=_processor(),
        cores=processors(),
        python=platform.python_version(),
        torch=version("torch"),
        busy_cores=round(psutil.cpu_percent(0.5) / 100.0 * (os.cpu_count() or 1), 2),
    )


def now() -> str:
    """Returns the time of a measurement, UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def publish(result: Result, directory: Path = RESULTS) -> None:
    """Prints a result and writes `name`.json and the summary of all results in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=2)
    (directory / f"{result.name}.json").write_bytes(encoded + b"\n")
    (directory / SUMMARY_NAME).write_text(summary(directory))
    show(result, Console())


def show(result: Result, console: Console) -> None:
    """Prints one result."""
    table = Table(title=result.title, title_justify="left")
    for index, column in enumerate(result.columns):
        table.add_column(column, justify="right" if index else "left")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    for goal in result.goals:
        console.print(("[green]met[/]    " if goal.met else "[red]missed[/] ") + _goal(goal))
    for note in (*result.notes, _machine(result)):
        console.print(note, style="dim", highlight=False)


def summary(directory: Path) -> str:
    """Returns the Markdown of all results in a directory."""
    found = [
        msgspec.json.decode(path.read_bytes(), type=Result)
        for path in sorted(directory.glob("*.json"))
    ]
    return "# Measured\n\n" + "\n".join(_markdown(result) for result in found)


def spread(values: list[float]) -> float:
    """Returns (largest - smallest) / median: how far repetitions were apart."""
    return (max(values) - min(values)) / median(values)


def _markdown(result: Result) -> str:
    lines = [f"## {result.title}", "", "| " + " | ".join(result.columns) + " |"]
    lines.append("|---" + "|---:" * (len(result.columns) - 1) + "|")
    lines.extend("| " + " | ".join(row) + " |" for row in result.rows)
    lines.append("")
    lines.extend(f"- {'met' if goal.met else 'MISSED'}: {_goal(goal)}" for goal in result.goals)
    lines.extend(f"- {note}" for note in (*result.notes, _machine(result)))
    return "\n".join(lines) + "\n"


def _goal(goal: Goal) -> str:
    side = "at least" if goal.at_least else "at most"
    return f"{goal.what}: {goal.value:.2f} ({side} {goal.wanted:g} wanted)"


def _machine(result: Result) -> str:
    facts = result.machine
    busy = facts.busy_cores > facts.cores * QUIET_SHARE
    return (
        f"{result.measured}, {facts.processor}, {facts.cores} cores, {facts.busy_cores:g} in use "
        f"before{' (BUSY: measure again when it is not)' if busy else ''}, "
        f"Python {facts.python}, torch {facts.torch}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
