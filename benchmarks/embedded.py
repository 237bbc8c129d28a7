"""The embedded runtime against transformers' continuous batching, on one checkpoint in one run.

Both are loaded at once, each in its own process with the same number of threads, and take turns:
A B, A B, ... so that what else the machine does hits both. Medians of the repetitions are reported,
their ratio, and the fraction of what the machine's memory and matrix units would allow.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

import torch
from rich.progress import Progress, TimeElapsedColumn

from benchmarks import limits, report
from benchmarks.checkpoints import SMALL, Shape, ensure
from benchmarks.contenders import BATCH, Timeline
from benchmarks.worker import Worker

THREADS = 2
REPETITIONS = 5
PROMPT_TOKENS = 64
NEW_TOKENS = 128
LONG_PROMPT_TOKENS = 4096
COMPARED_TOKENS = 16

OWN, PEER = "embedded", "transformers"
SINGLE = "decode, 1 stream (tok/s)"
MANY = f"decode, {BATCH} streams (tok/s)"
PREFILL = f"prefill, {LONG_PROMPT_TOKENS} tokens (tok/s)"
COLD = "first token, cold (ms)"
CACHED = "first token, cached (ms)"
RATES = (SINGLE, MANY, PREFILL)
TIMES = (COLD, CACHED)
WANTED = {SINGLE: 2.4, MANY: 2.7, PREFILL: 6.0}
WANTED_CACHED = 20.0

Measured = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measures, prints and keeps the result."""
    machine = report.machine()
    checkpoint = ensure(SMALL, report.CHECKPOINTS)
    measured, same, peak_bytes = compare(
        SMALL, REPETITIONS, lambda name: Worker(name, checkpoint, THREADS)
    )
    torch.set_num_threads(THREADS)
    report.publish(
        result(SMALL, measured, same, peak_bytes, machine, limits.measure(torch.device("cpu")))
    )


def compare(
    shape: Shape, repetitions: int, start: Callable[[str], Worker]
) -> tuple[Measured, str, dict[str, int]]:
    """Returns the figures of both contenders, how far their tokens agree, and peak memory.

    The first repetition warms both up and is not counted. Every prompt is new, so that a cached
    prefix helps only where it is meant to.
    """
    source = random.Random(7)
    figures = (*RATES, *TIMES)
    measured: Measured = {name: {figure: [] for figure in figures} for name in (OWN, PEER)}
    agreed: list[int] = []
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start(name)) for name in (OWN, PEER)}
        progress = stack.enter_context(
            Progress(*Progress.get_default_columns(), TimeElapsedColumn())
        )
        task = progress.add_task("measuring", total=(repetitions + 1) * len(workers))
        for repetition in range(repetitions + 1):
            batch = [_prompt(source, shape, PROMPT_TOKENS) for _ in range(BATCH)]
            single = _prompt(source, shape, PROMPT_TOKENS)
            long = _prompt(source, shape, LONG_PROMPT_TOKENS)
            tokens = {}
            for name, worker in workers.items():
                timelines = {
                    SINGLE: worker.generate([single], NEW_TOKENS),
                    MANY: worker.generate(batch, NEW_TOKENS),
                    COLD: worker.generate([long], 1),
                    CACHED: worker.generate([long], 1),
                }
                tokens[name] = [timelines[SINGLE].tokens[0], *timelines[MANY].tokens]
                if repetition:
                    _note(measured[name], timelines)
                progress.advance(task)
            agreed.extend(map(_common, tokens[OWN], tokens[PEER]))
        peaks = {name: worker.peak_bytes for name, worker in workers.items()}
    return measured, _agreement(agreed), peaks


def _note(figures: dict[str, list[float]], timelines: dict[str, Timeline]) -> None:
    figures[SINGLE].append(timelines[SINGLE].decode_tokens_per_second)
    figures[MANY].append(timelines[MANY].decode_tokens_per_second)
    figures[PREFILL].append(LONG_PROMPT_TOKENS / timelines[COLD].first_token_seconds)
    for figure in TIMES:
        figures[figure].append(1000.0 * timelines[figure].first_token_seconds)


def _prompt(source: random.Random, shape: Shape, tokens: int) -> list[int]:
    # The last ids of the vocabulary are control tokens and padding.
    return [source.randrange(shape.vocab_size * 99 // 100) for _ in range(tokens)]


def _common(ours: list[int], theirs: list[int]) -> int:
    """Returns how many tokens are equal before the first that is not."""
    pairs = zip(ours, theirs, strict=True)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(ours))


def _agreement(agreed: list[int]) -> str:
    whole = sum(count == NEW_TOKENS for count in agreed)
    start = sum(count >= COMPARED_TOKENS for count in agreed)
    return (
        f"greedy tokens (bfloat16): {start} of {len(agreed)} streams agree in the first "
        f"{COMPARED_TOKENS}, {whole} in all {NEW_TOKENS}; half agree in at least "
        f"{median(agreed):g}"
    )


def result(
    shape: Shape,
    measured: Measured,
    same: str,
    peak_bytes: dict[str, int],
    machine: report.Machine,
    best: limits.Limits,
) -> report.Result:
    """Returns the table, the goals and the notes for what was measured."""
    bounds = {
        SINGLE: limits.decode_tokens_per_second(shape, best, 1, PROMPT_TOKENS),
        MANY: limits.decode_tokens_per_second(shape, best, BATCH, PROMPT_TOKENS),
        PREFILL: limits.prefill_tokens_per_second(shape, best, LONG_PROMPT_TOKENS),
    }
    middle = {
        n: {f: median(values) for f, values in figures.items()} for n, figures in measured.items()
    }
    ratios = {figure: middle[OWN][figure] / middle[PEER][figure] for figure in RATES}
    ratios |= {figure: middle[PEER][figure] / middle[OWN][figure] for figure in TIMES}
    rows = [
        (
            figure,
            _cell(measured[OWN][figure]),
            _cell(measured[PEER][figure]),
            f"{ratios[figure]:.2f}",
            f"{middle[OWN][figure] / bounds[figure]:.0%}" if figure in bounds else "",
        )
        for figure in (*RATES, *TIMES)
    ]
    own_mb, peer_mb = (peak_bytes[name] / 1e6 for name in (OWN, PEER))
    rows.append(
        ("peak memory (MB)", f"{own_mb:.0f}", f"{peer_mb:.0f}", f"{peer_mb / own_mb:.2f}", "")
    )
    goals = [
        report.Goal(what=f"{figure}, times transformers", value=ratios[figure], wanted=wanted)
        for figure, wanted in WANTED.items()
    ]
    goals.append(
        report.Goal(
            what="cached 4k prefix, first token sooner than cold, times",
            value=middle[OWN][COLD] / middle[OWN][CACHED],
            wanted=WANTED_CACHED,
        )
    )
    return report.Result(
        name="embedded",
        title="Embedded runtime and transformers' continuous batching",
        columns=("", OWN, PEER, "ratio", "of the limit"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"median of {len(measured[OWN][SINGLE])} interleaved repetitions (spread: largest less "
            "smallest, over the median), bfloat16, "
            f"{THREADS} threads each, prompt {PROMPT_TOKENS}, {NEW_TOKENS} new tokens; random "
            f"checkpoint: hidden {shape.hidden_size}, {shape.num_layers} layers, "
            f"{shape.num_experts} experts, vocabulary {shape.vocab_size}",
            same,
            f"limit: {best.bytes_per_second / 1e9:.1f} GB/s and "
            f"{best.operations_per_second / 1e9:.0f} GFLOP/s measured in this run",
            "transformers has no prefix cache for this architecture: its cached prompt is computed",
        ),
        raw={
            f"{n}: {f}": values for n, figures in measured.items() for f, values in figures.items()
        },
        machine=machine,
        measured=report.now(),
    )


def _cell(values: list[float]) -> str:
    return f"{median(values):.0f} (±{report.spread(values) / 2:.0%})"
