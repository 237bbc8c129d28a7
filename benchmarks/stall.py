"""How long running streams wait for their next token while a long prompt is computed.

Eight streams decode; then a prompt of 16,384 tokens arrives. The engine gives it a chunk a step,
beside the streams' own rows, so no stream may wait longer than one such chunk takes. How long a
chunk takes is measured apart: the same prompt alone in the engine, its longest step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import report
from benchmarks.checkpoints import SMALL, CheckpointShape, ensure
from benchmarks.runtime import BLOCK_TOKENS, greedy, open_runtime
from serving.engines.embedded.runtime import EmbeddedRuntime

THREADS = 2
STREAM_PROMPT_TOKENS = 64
# The id of the long prompt's sequence; streams are counted from 0.
LONG = 1000
# A step with a chunk also decodes the streams, and two steps are never equally long.
TOLERANCE = 1.25


@dataclass(frozen=True, slots=True)
class Load:
    """What is run. The streams decode together for `settle_steps` before the long prompt comes."""

    streams: int = 8
    chunk_tokens: int = 512
    long_prompt_tokens: int = 16_384
    settle_steps: int = 64


@dataclass(frozen=True, slots=True)
class Stalls:
    """Seconds between two tokens of a stream, `before` the long prompt came and `during` it.

    `alone` are the steps of another prompt of that length with nothing beside it. `skipped_steps`
    counts the steps in which a running stream got no token.
    """

    before: list[float]
    during: list[float]
    alone: list[float]
    skipped_steps: int


def main() -> None:
    """Measures, prints and keeps the result."""
    machine = report.machine()
    torch.set_num_threads(THREADS)
    stalls = measure(SMALL, ensure(SMALL, report.CHECKPOINTS), Load(), time.perf_counter)
    report.publish(result(stalls, Load(), machine))


def measure(
    shape: CheckpointShape, checkpoint: Path, load: Load, clock: Callable[[], float]
) -> Stalls:
    """Runs the load and returns what the streams saw."""
    chunks = -(-load.long_prompt_tokens // (load.chunk_tokens - load.streams))
    stream_tokens = 2 * (load.settle_steps + chunks)
    tokens = 2 * load.long_prompt_tokens + load.streams * (STREAM_PROMPT_TOKENS + stream_tokens)
    runtime = open_runtime(
        checkpoint,
        max_batch_size=load.streams + 1,
        max_num_tokens=load.chunk_tokens,
        cache_tokens=tokens + (load.streams + 2) * BLOCK_TOKENS,
    )
    source = random.Random(11)

    def prompt(length: int) -> list[int]:
        return [source.randrange(shape.vocab_size) for _ in range(length)]

    runtime.submit(greedy(LONG, prompt(load.long_prompt_tokens), 1))
    alone = [seconds for seconds, _ in _steps(runtime, clock)]
    for stream in range(load.streams):
        runtime.submit(greedy(stream, prompt(STREAM_PROMPT_TOKENS), stream_tokens))
    watch = _Watch(load.streams)
    for seconds, served in _steps(runtime, clock):
        watch.note(seconds, served)
        if watch.steps_together == load.settle_steps and not watch.crowded:
            watch.crowded = True
            runtime.submit(greedy(LONG, prompt(load.long_prompt_tokens), 1))
        if LONG in served:
            break
    runtime.close()
    return Stalls(watch.before, watch.during, alone, watch.skipped_steps)


class _Watch:
    """Follows the streams from step to step."""

    def __init__(self, streams: int) -> None:
        self.before: list[float] = []
        self.during: list[float] = []
        self.steps_together = 0
        self.skipped_steps = 0
        self.crowded = False
        self._streams = frozenset(range(streams))
        self._waits = dict.fromkeys(self._streams, 0.0)
        self._started: frozenset[int] = frozenset()

    def note(self, seconds: float, served: frozenset[int]) -> None:
        """Counts a step that took `seconds` and gave a token to the sequences in `served`."""
        together = self._started == self._streams
        for stream in self._streams:
            self._waits[stream] += seconds
            if stream in served:
                if together:
                    (self.during if self.crowded else self.before).append(self._waits[stream])
                self._waits[stream] = 0.0
        if together:
            self.steps_together += 1
            self.skipped_steps += not self._streams <= served
        self._started |= served & self._streams


def _steps(
    runtime: EmbeddedRuntime, clock: Callable[[], float]
) -> Iterator[tuple[float, frozenset[int]]]:
    """Yields how long each step took and which sequences got a token."""
    while runtime.busy:
        start = clock()
        step = runtime.step()
        outputs = step.outputs if step is not None else []
        faults = [output.fault.message for output in outputs if output.fault is not None]
        if faults:
            raise RuntimeError(faults[0])
        yield clock() - start, frozenset(output.id for output in outputs)


def result(stalls: Stalls, load: Load, machine: report.Machine) -> report.Result:
    """Returns the table and the goals for what was measured."""
    chunk = max(stalls.alone)
    rows = [
        (name, *(f"{1000 * float(np.percentile(gaps, q)):.1f}" for q in (50, 99, 100)))
        for name, gaps in (
            (f"between tokens, {load.streams} streams alone", stalls.before),
            ("between tokens, beside the long prompt", stalls.during),
            ("one chunk of that prompt, alone in the engine", stalls.alone),
        )
    ]
    return report.Result(
        name="stall",
        title=f"Running streams while {load.long_prompt_tokens} tokens are prefilled (ms)",
        columns=("", "p50", "p99", "max"),
        rows=tuple(rows),
        goals=(
            report.Goal(
                what="longest gap, in chunks of the longest kind",
                value=max(stalls.during) / chunk,
                wanted=TOLERANCE,
                at_least=False,
            ),
            report.Goal(
                what="steps beside the long prompt that gave a stream no token",
                value=stalls.skipped_steps,
                wanted=0,
                at_least=False,
            ),
        ),
        notes=(
            f"chunks of {load.chunk_tokens} tokens, {THREADS} threads, bfloat16; a prefill in one "
            f"piece would have held the streams up for {sum(stalls.alone):.2f} s",
        ),
        raw={"before": stalls.before, "during": stalls.during, "alone": stalls.alone},
        machine=machine,
        measured=report.now(),
    )


if __name__ == "__main__":
    main()
