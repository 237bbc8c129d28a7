"""Shows that an engine is whole, that it still answers as it did, and how fast it is.

The rates are a smoke test's: a few seconds of made-up prompts, enough to see that a driver, a
kernel or a neighbour has made an engine several times slower, not to compare engines by.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine_build import durable
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.place import State
from engine_build.proof import golden, probe
from engine_build.proof.probe import Batch
from serving.boundary import engine
from serving.boundary.engine import Engine, EngineError
from serving.errors import ServingError

DECODED_TOKENS = 64
SHORT_TOKENS = 16
LONG_TOKENS = 2048
STREAMS = 16
SLOWER = 0.5
"""A figure below this part of the one before is pointed out."""

AGAIN = "Build the engine again with --force"

Clock = Callable[[], float]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the engine was with one shape, from the first prompt to the last token."""

    shape: Batch
    decoded_tokens: int
    """Of each sequence."""
    seconds: float
    tokens_per_second: float
    """Of all sequences: decoded ones, or of the prompt where one token was decoded."""


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found. Stands beside the engine, and is no part of it."""

    digest: str
    runtime: str
    runtime_version: str
    device: str
    """What the engine ran on, in its own words; empty where the service does not run it."""
    golden: tuple[str, ...]
    """The prompts that were answered as in engine.json."""
    load_seconds: float | None
    figures: tuple[Rate, ...]
    measured: str
    """UTC, to the minute."""


def path(state: State, name: str) -> Path:
    """Returns where the report of an engine's last verification is."""
    return state.report(name).with_name(f"{name}.verify.json")


def check(directory: Path, advance: Advance = durable.ignore) -> Engine:
    """Returns the manifest after reading every header and hashing every file, with progress.

    Raises BuildError naming the first tensor or field that is not what it must be, EngineError
    naming the first file that has changed.
    """
    # Here, because numpy takes a while and the other commands need none.
    from engine_build.weights import contents

    found = engine.read(directory)
    try:
        contents.check(directory, found)
    except BuildError as error:
        raise BuildError(error.exit_code, error.message, AGAIN) from None
    try:
        return engine.verify(directory, lambda path: durable.sha256(path, advance))
    except EngineError as error:
        raise EngineError(f"{error}. {AGAIN}") from None


def run(
    directory: Path, built: Engine, measured: str, clock: Clock = time.perf_counter
) -> VerificationReport:
    """Runs the golden prompts, then measures. Raises BuildError for another answer than then."""
    # Here, because numpy takes a while and the other commands need none.
    from engine_build.weights import contents

    golden.check(directory, built)
    report = VerificationReport(
        digest=built.digest,
        runtime=built.runtime,
        runtime_version=built.runtime_version,
        device="",
        golden=tuple(one.name for one in built.golden),
        load_seconds=None,
        figures=(),
        measured=measured,
    )
    if contents.is_cut(built.runtime, built.mesh):
        return report  # The service does not run rank files, so there is no rate to have.
    return asyncio.run(_measure(directory, built, report, clock))


def keep(report: VerificationReport, where: Path) -> VerificationReport | None:
    """Writes the report, and returns the one that it replaces if it is of the same engine."""
    earlier = durable.read_json(where, VerificationReport)
    durable.write_json(where, report)
    same = earlier is not None and (earlier.digest, earlier.device) == (
        report.digest,
        report.device,
    )
    return earlier if same else None


def lines(report: VerificationReport, earlier: VerificationReport | None = None) -> Iterator[str]:
    """Yields what a person wants to know of a report."""
    yield f"golden prompts answered as when it was built: {', '.join(report.golden) or 'none'}"
    if not report.figures:
        yield "no rate: the service does not run rank files on the embedded runtime"
        return
    yield f"on {report.device}, loaded in {report.load_seconds:.1f} s"
    before = {one.shape: one.tokens_per_second for one in earlier.figures} if earlier else {}
    for one in report.figures:
        rate, then = one.tokens_per_second, before.get(one.shape)
        line = f"{_words(one)}: {rate:,.0f} tokens/s"
        if then is not None and earlier is not None:
            line += f" ({then:,.0f} on {earlier.measured})"
        yield line
        if then is not None and rate < SLOWER * then:
            yield "  warning: less than half of then; is something else running here?"


def shapes(built: Engine) -> list[tuple[Batch, int]]:
    """Returns what is measured, with the tokens to decode: one sequence, several, a prompt."""
    limits = built.limits
    decoded = min(DECODED_TOKENS, max(1, limits.max_seq_len // 2))
    short = min(SHORT_TOKENS, limits.max_seq_len - decoded)
    many = min(STREAMS, limits.max_batch_size)
    long = min(LONG_TOKENS, limits.max_seq_len - 1)
    return [
        (Batch(1, short), decoded),
        *([(Batch(many, short), decoded)] if many > 1 else []),
        (Batch(1, long), 1),
    ]


async def _measure(
    directory: Path, built: Engine, report: VerificationReport, clock: Clock
) -> VerificationReport:
    ids = random.Random(0)  # noqa: S311 - token ids, the same in every run
    async with probe.running(directory) as supervisor:
        ready = supervisor.ready
        try:
            figures = []
            for shape, decoded in shapes(built):
                # What a shape costs the first time is not measured.
                await probe.run_batch(supervisor, shape, decoded, ids)
                began = clock()
                tokens = await probe.run_batch(supervisor, shape, decoded, ids)
                figures.append(_figure(shape, decoded, tokens, clock() - began))
        except ServingError as error:
            raise BuildError(ExitCode.DATA, f"{directory} stopped: {error}") from None
    return msgspec.structs.replace(
        report,
        device=ready.device if ready else "",
        load_seconds=round(ready.load_seconds, 3) if ready else None,
        figures=tuple(figures),
    )


def _figure(shape: Batch, decoded: int, tokens: int, seconds: float) -> Rate:
    counted = tokens if decoded > 1 else shape.sequences * shape.prompt_tokens
    return Rate(
        shape=shape,
        decoded_tokens=decoded,
        seconds=round(seconds, 4),
        tokens_per_second=round(counted / seconds, 1),
    )


def _words(one: Rate) -> str:
    if one.decoded_tokens == 1:
        return f"a prompt of {one.shape.prompt_tokens} tokens"
    return "1 stream" if one.shape.sequences == 1 else f"{one.shape.sequences} streams"
