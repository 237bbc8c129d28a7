"""An engine build's steps at full width, against a plain copy and sha256 of the same bytes.

The checkpoint is synthetic (benchmarks.synthetic): gpt-oss-120b's tensors, with fewer layers, so
that a file, a tensor and an expert have their true sizes. Each step runs in a process of its own;
steps and the plain tools take turns, each finds the checkpoint on the disk and not in memory, and
each one's best time counts. Then a conversion runs with one worker and with one a core.
`python -m benchmarks.build [--model NAME] [--layers N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import psutil

from benchmarks import report
from benchmarks.build_step import STEPS, StepCost, shape
from benchmarks.synthetic import generate
from engine_build import durable
from serving.hosting.machine import processors

DIRECTORY = report.STATE / "build"
MOVING = ("verify", "place", "repack", "shard")
"""Steps that only move or read bytes."""
LEAST_RATIO = 0.7
MOST_BYTES = 2_000_000_000

CONVERTED, CONVERTED_LAYERS = "gpt-oss-20b", 2
"""What shows how a conversion spreads over cores: it is parallel over layers."""
LEAST_SPREAD = 0.75
"""Of as many times the speed as there are workers."""
MEMORY = Path("/dev/shm")  # noqa: S108 - where a file costs no time of a disk


@dataclass(frozen=True, slots=True)
class Plain:
    """Seconds that the plain tools took for the checkpoint's bytes."""

    copy: float
    hash: float
    """OpenSSL's sha256 in one thread. coreutils' own is several times slower where it is built
    without the processor's instructions for it, and would be too easy to beat."""
    coreutils_hash: float

    @property
    def both(self) -> float:
        """A copy and its hash, one after the other."""
        return self.copy + self.hash


Clock = Callable[[], float]


def main(arguments: list[str]) -> int:
    """Measures, prints and keeps the result. Returns 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt-oss-120b")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=processors())
    chosen = parser.parse_args(arguments)
    machine = report.machine()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    try:
        made = generate(shape(chosen.model, chosen.layers), DIRECTORY / "checkpoint")
        plain, costs = measure(
            DIRECTORY, chosen.model, chosen.layers, chosen.rounds, chosen.workers, time.perf_counter
        )
        shutil.rmtree(DIRECTORY / "checkpoint")
        spread = scale(DIRECTORY, chosen.workers)
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    title = f"Engine build, {chosen.model} with {chosen.layers} layers"
    found = result(title, made.tensor_bytes, plain, costs, spread, machine)
    report.publish(found)
    return 0 if all(goal.met for goal in found.goals) else 1


def measure(
    directory: Path, model: str, layers: int, rounds: int, workers: int, clock: Clock
) -> tuple[Plain, dict[str, StepCost]]:
    """Returns the best of several rounds, for the plain tools and for each step."""
    source, target = directory / "checkpoint", directory / "target"
    copies, hashes, coreutils = [], [], []
    costs: dict[str, list[StepCost]] = {step: [] for step in STEPS}
    for _ in range(rounds):
        _evict(source)
        copies.append(_timed(["cp", "-r", str(source), str(target)], clock))
        files = sorted(target.iterdir())
        coreutils.append(_timed(["sha256sum", *map(str, files)], clock))
        _clear(target)
        _evict(source)
        started = clock()
        for file in sorted(source.iterdir()):
            durable.sha256(file)
        hashes.append(clock() - started)
        for step, found in costs.items():
            _evict(source)
            found.append(_run(step, source, target, model, layers, workers))
    best = {step: min(found, key=lambda cost: cost.seconds) for step, found in costs.items()}
    return Plain(min(copies), min(hashes), min(coreutils)), best


def scale(directory: Path, workers: int) -> dict[int, StepCost]:
    """Returns what the conversion to FP8 takes with one worker and with several.

    It reads from memory and, where there is space, writes to it: what is looked for is how the
    processor's cores are used, and two workers write no faster to one disk than one.
    """
    source = directory / "checkpoint"
    made = generate(shape(CONVERTED, CONVERTED_LAYERS), source)
    fits = MEMORY.is_dir() and psutil.virtual_memory().available > 3 * made.tensor_bytes
    with TemporaryDirectory(dir=MEMORY if fits else directory) as place:
        costs = {}
        for count in sorted({1, workers}):
            for file in sorted(source.iterdir()):
                durable.sha256(file)
            target = Path(place) / "target"
            costs[count] = _run("fp8", source, target, CONVERTED, CONVERTED_LAYERS, count)
    return costs


def _run(step: str, source: Path, target: Path, model: str, layers: int, workers: int) -> StepCost:
    """Runs a step in a process of its own, and removes what it wrote."""
    arguments = [step, str(source), str(target), model, str(layers), str(workers)]
    command = [sys.executable, "-m", "benchmarks.build_step", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    _clear(target)
    return msgspec.json.decode(output, type=StepCost)


def _timed(command: list[str], clock: Clock) -> float:
    started = clock()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return clock() - started


def _evict(directory: Path) -> None:
    """Drops a directory's files from the page cache: else whoever reads them next gains by it."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _clear(target: Path) -> None:
    """Deletes what was written, and waits for the disk, so that no step pays for another's."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()


def result(
    title: str,
    size_bytes: int,
    plain: Plain,
    costs: dict[str, StepCost],
    spread: dict[int, StepCost],
    machine: report.Machine,
) -> report.Result:
    """Returns the table and the goals."""
    gigabytes = size_bytes / 1e9
    tools = {"cp": plain.copy, "sha256": plain.hash, "sha256sum": plain.coreutils_hash}
    rows = [
        (tool, f"{seconds:.1f}", f"{gigabytes / seconds:.2f}", "", "", "")
        for tool, seconds in tools.items()
    ]
    ratios = {step: _ratio(step, plain, cost) for step, cost in costs.items()}
    for step, cost in costs.items():
        moves = f"{ratios[step]:.2f}" if step in MOVING else ""
        rate, peak = gigabytes / cost.seconds, cost.peak_bytes / 1e6
        rows.append((step, f"{cost.seconds:.1f}", f"{rate:.2f}", moves, f"{peak:.0f}", cost.note))
    for workers, cost in spread.items():
        what = f"fp8, {CONVERTED}, {workers} worker{'s' if workers > 1 else ''}"
        rate = cost.written_bytes / 1e9 / cost.seconds
        note = "GB/s written, from and to memory"
        rows.append(
            (what, f"{cost.seconds:.1f}", f"{rate:.2f}", "", f"{cost.peak_bytes / 1e6:.0f}", note)
        )
    against = {step: "sha256" if step == "verify" else "cp and sha256" for step in MOVING}
    goals = [
        report.Goal(what=f"{step} / {plainly}", value=ratios[step], wanted=LEAST_RATIO)
        for step, plainly in against.items()
    ]
    workers = max(spread)
    if workers > 1:
        faster = spread[1].seconds / spread[workers].seconds
        what = f"conversion, {workers} workers against 1"
        goals.append(report.Goal(what=what, value=faster, wanted=LEAST_SPREAD * workers))
    peak_bytes = max(cost.peak_bytes for cost in (*costs.values(), *spread.values()))
    goals.append(
        report.Goal(
            what="largest resident memory of a step (GB)",
            value=peak_bytes / 1e9,
            wanted=MOST_BYTES / 1e9,
            at_least=False,
        )
    )
    return report.Result(
        name="build",
        title=title,
        columns=("step", "seconds", "GB/s of the checkpoint", "ratio", "peak MB", "found"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"{gigabytes:.2f} GB of tensors, read from the disk. Steps wait until their "
            "files are on the disk, cp does not; `place` links where it can",
        ),
        raw={step: [cost.seconds] for step, cost in costs.items()}
        | {f"fp8 with {count}": [cost.seconds] for count, cost in spread.items()},
        machine=machine,
        measured=report.now(),
    )


def _ratio(step: str, plain: Plain, cost: StepCost) -> float:
    return (plain.hash if step == "verify" else plain.both) / cost.seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
