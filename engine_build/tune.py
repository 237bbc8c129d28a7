"""Starts an engine once and runs the shapes that it will serve, so that later starts need not tune.

TensorRT-LLM tunes kernels, compiles them and captures graphs when a shape is first met, and keeps
what can be kept below the engine's cache/ (serving/engines/trtllm/environment.py). The embedded
runtime keeps nothing between starts: its tuning only shows what a start and the first requests
cost. Files below cache/ are rewritten by the runtime, so they are no part of the engine's digest.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.proof import probe
from engine_build.proof.probe import Batch
from serving.boundary import engine
from serving.boundary.contract import EngineHandle
from serving.boundary.engine import Engine
from serving.errors import ServingError

KEEPING = frozenset({"trtllm"})
"""Runtimes that keep something below cache/."""

DECODED_TOKENS = 8
FIRST_PROMPT_TOKENS = 16
Clock = Callable[[], float]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One shape: the first time after a start, and once more."""

    shape: Batch
    first_seconds: float
    again_seconds: float


class EngineStart(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the engine and the shapes after it."""

    start_seconds: float
    """From the start of the process until the engine was ready."""
    timings: tuple[Timing, ...]


class TuningReport(msgspec.Struct, frozen=True, kw_only=True):
    """What tuning measured and left. Stands beside the engine, and is no part of it."""

    digest: str
    runtime: str
    first: EngineStart
    second: EngineStart | None
    """With what the first run had left; None when it was not asked for."""
    cache_files: int
    cache_bytes: int


def shapes(built: Engine) -> list[Batch]:
    """Returns what the engine will serve: every graph's batch, and prompts up to a whole step.

    Batches without graphs are powers of two up to max_batch_size. Prompts are powers of two up to
    max_num_tokens, and one that needs two chunks where a sequence may be so long.
    """
    limits = built.limits
    batches = set(built.cuda_graphs.batch_sizes) or set(_doublings(1, limits.max_batch_size))
    longest = limits.max_seq_len - DECODED_TOKENS
    prompts = [*_doublings(FIRST_PROMPT_TOKENS, min(limits.max_num_tokens, longest))]
    if limits.max_num_tokens + FIRST_PROMPT_TOKENS <= longest:
        prompts.append(limits.max_num_tokens + FIRST_PROMPT_TOKENS)
    short = min(FIRST_PROMPT_TOKENS, longest)
    return [Batch(count, short) for count in sorted(batches)] + [
        Batch(1, tokens) for tokens in prompts if tokens > short
    ]


def tune(
    directory: Path,
    *,
    compare: bool,
    note: Callable[[str], None],
    clock: Clock = time.monotonic,
) -> TuningReport:
    """Runs every shape, with `compare` in a second start too, and returns what was measured.

    Raises BuildError when the engine does not start or fails a shape, STORAGE when it cannot keep
    what it tunes.
    """
    built = engine.read(directory)
    cache = directory / engine.CACHE_DIRECTORY
    if built.runtime in KEEPING:
        with durable.storage_errors(cache):
            cache.mkdir(exist_ok=True)
    wanted = shapes(built)
    note(f"Starting the engine and running {len(wanted)} shapes")
    first = asyncio.run(_run(directory, wanted, clock))
    second = None
    if compare:
        note("Starting it once more with what it has kept")
        second = asyncio.run(_run(directory, wanted, clock))
    kept = [path for path in cache.rglob("*") if path.is_file()]
    return TuningReport(
        digest=built.digest,
        runtime=built.runtime,
        first=first,
        second=second,
        cache_files=len(kept),
        cache_bytes=sum(path.stat().st_size for path in kept),
    )


def lines(report: TuningReport) -> Iterator[str]:
    """Yields what a person wants to know of a report."""
    for name, run in (("first", report.first), ("second", report.second)):
        if run is None:
            continue
        met = sum(one.first_seconds for one in run.timings)
        again = sum(one.again_seconds for one in run.timings)
        yield (
            f"{name} start: {run.start_seconds:.1f} s; {len(run.timings)} shapes: {met:.2f} s when "
            f"first met, {again:.2f} s again"
        )
    if report.runtime in KEEPING:
        yield f"kept: {report.cache_files} files, {report.cache_bytes / 1e6:,.1f} MB in cache/"
    else:
        yield f"kept: nothing; the {report.runtime} runtime starts the same every time"


async def _run(directory: Path, wanted: Sequence[Batch], clock: Clock) -> EngineStart:
    ids = random.Random(0)  # noqa: S311 - token ids, the same in every run
    began = clock()
    async with probe.running(directory) as supervisor:
        start_seconds = clock() - began
        try:
            timings = [
                Timing(
                    shape=shape,
                    first_seconds=round(await _seconds(supervisor, shape, ids, clock), 4),
                    again_seconds=round(await _seconds(supervisor, shape, ids, clock), 4),
                )
                for shape in wanted
            ]
        except ServingError as error:
            raise BuildError(ExitCode.DATA, f"{directory} stopped: {error}") from None
    return EngineStart(start_seconds=round(start_seconds, 3), timings=tuple(timings))


async def _seconds(engine: EngineHandle, batch: Batch, ids: random.Random, clock: Clock) -> float:
    began = clock()
    await probe.run_batch(engine, batch, DECODED_TOKENS, ids)
    return clock() - began


def _doublings(first: int, most: int) -> Iterator[int]:
    """Yields `first`, its doublings below `most`, and `most`, each once."""
    count = first
    while count < most:
        yield count
        count *= 2
    yield most
