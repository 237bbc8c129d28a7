"""The embedded runtime against transformers' continuous batching, on one checkpoint in one run.

transformers takes part twice: as it comes, which the goals refer to, and with the chunk, the block
and the process environment of the embedded runtime. So does the embedded runtime: with the
checkpoint's weights in bfloat16, and with what the engine build makes of them in INT8, which are
attention's matrices and the LM head. All are loaded at once, each in its
own process with the same number of threads, and take turns, A B C, A B C, figure by figure, so
that what else the machine does hits all. Reported are medians of the repetitions, the medians of
the ratios within a turn, and the fraction of what the machine's memory and matrix units allow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median
from typing import Protocol

import torch
from rich.progress import Progress, TimeElapsedColumn

from benchmarks import limits, report
from benchmarks.checkpoints import SMALL, CheckpointShape, ensure, int8
from benchmarks.contenders import BATCH
from benchmarks.timeline import Timeline
from benchmarks.worker import Worker
from serving.boundary.child import ENVIRONMENT

THREADS = 2
REPETITIONS = 5
PROMPT_TOKENS = 64
NEW_TOKENS = 128
LONG_PROMPT_TOKENS = 4096
COMPARED_TOKENS = 32
COMPARED_LENGTHS = (5, 37, 300, 700)

OWN, CODED, PEER, TUNED = "embedded", "embedded-int8", "transformers", "transformers-tuned"
PLAYERS = (OWN, CODED, PEER, TUNED)
PEERS = (PEER, TUNED)
SINGLE = "decode, 1 stream (tok/s)"
MANY = f"decode, {BATCH} streams (tok/s)"
PREFILL = f"prefill, {LONG_PROMPT_TOKENS} tokens (tok/s)"
COLD = "first token, cold (ms)"
CACHED = "first token, cached (ms)"
RATES = (SINGLE, MANY, PREFILL)
TIMES = (COLD, CACHED)
FIGURES = (*RATES, *TIMES)
WANTED = {SINGLE: 4.0, MANY: 4.0, PREFILL: 12.0}
WANTED_CODED = {SINGLE: 1.3, MANY: 0.9}
WANTED_CACHED = 20.0

Measured = dict[str, dict[str, list[float]]]


class Player(Protocol):
    """What takes part: a `Worker`, or in tests something simpler."""

    peak_bytes: int

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        """See `contenders.Contender`."""
        ...


def main() -> None:
    """Measures, prints and keeps the result."""
    machine = report.machine()
    checkpoint = ensure(SMALL, report.CHECKPOINTS)
    read = dict.fromkeys(PLAYERS, checkpoint) | {CODED: int8(checkpoint)}
    with ExitStack() as stack:
        players = {
            name: stack.enter_context(Worker(name, read[name], THREADS, as_engine=name != PEER))
            for name in PLAYERS
        }
        measured = compare(SMALL, REPETITIONS, players)
        peaks = {name: player.peak_bytes for name, player in players.items()}
    with ExitStack() as stack:
        exact = [
            stack.enter_context(Worker(name, checkpoint, THREADS, "float32"))
            for name in (OWN, TUNED)
        ]
        agreed = agreement(SMALL, *exact)
    torch.set_num_threads(THREADS)
    best = limits.measure(torch.device("cpu"))
    report.publish(result(SMALL, measured, agreed, peaks, machine, best))


def compare(shape: CheckpointShape, repetitions: int, players: Mapping[str, Player]) -> Measured:
    """Returns the figures of each player.

    One more repetition comes first, to warm up, and is not counted. Every prompt is new, so that
    a cached prefix helps only where it is meant to.
    """
    source = random.Random(7)
    measured: Measured = {name: {figure: [] for figure in FIGURES} for name in players}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as progress:
        task = progress.add_task("measuring", total=4 * (repetitions + 1) * len(players))
        for repetition in range(repetitions + 1):
            single, *batch = (_prompt(source, shape, PROMPT_TOKENS) for _ in range(BATCH + 1))
            long = _prompt(source, shape, LONG_PROMPT_TOKENS)
            work = {
                SINGLE: ([single], NEW_TOKENS),
                MANY: (batch, NEW_TOKENS),
                COLD: ([long], 1),
                CACHED: ([long], 1),
            }
            for figure, (prompts, new_tokens) in work.items():
                for name, player in players.items():
                    timeline = player.generate(prompts, new_tokens)
                    if repetition:
                        _note(measured[name], figure, timeline)
                    progress.advance(task)
    return measured


def agreement(shape: CheckpointShape, own: Player, peer: Player) -> str:
    """Returns a sentence on the greedy tokens of both, which load the checkpoint in float32.

    In bfloat16 a logit of 20 has steps of 1/8, and one token in seven is a tie that rounding
    decides: only in float32 must two engines agree.
    """
    source = random.Random(3)
    agreed = []
    for length in COMPARED_LENGTHS:
        prompt = _prompt(source, shape, length)
        ours, theirs = (
            player.generate([prompt], COMPARED_TOKENS).tokens[0] for player in (own, peer)
        )
        agreed.append(_common(ours, theirs))
    prompts = ", ".join(map(str, COMPARED_LENGTHS))
    return (
        f"greedy tokens in float32, prompts of {prompts}: {sum(agreed)} of "
        f"{COMPARED_TOKENS * len(agreed)} agree before a first difference"
    )


def _note(figures: dict[str, list[float]], figure: str, timeline: Timeline) -> None:
    if figure in TIMES:
        figures[figure].append(1000.0 * timeline.first_token_seconds)
    else:
        figures[figure].append(timeline.decode_tokens_per_second)
    if figure == COLD:
        figures[PREFILL].append(LONG_PROMPT_TOKENS / timeline.first_token_seconds)


def _prompt(source: random.Random, shape: CheckpointShape, tokens: int) -> list[int]:
    # The last ids of the vocabulary are control tokens and padding.
    return [source.randrange(shape.vocab_size * 99 // 100) for _ in range(tokens)]


def _common(ours: list[int], theirs: list[int]) -> int:
    """Returns how many tokens are equal before the first that is not."""
    pairs = zip(ours, theirs, strict=True)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(ours))


def result(
    shape: CheckpointShape,
    measured: Measured,
    agreed: str,
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
    rows = [_row(figure, measured, bounds) for figure in FIGURES]
    memory = [f"{peak_bytes[name] / 1e6:.0f}" for name in PLAYERS]
    less = [peak_bytes[name] / peak_bytes[OWN] for name in PEERS]
    less.append(peak_bytes[OWN] / peak_bytes[CODED])
    rows.append(("peak memory (MB)", *memory, *(f"{ratio:.2f}" for ratio in less), ""))
    coded_bound = limits.decode_tokens_per_second(shape, best, 1, PROMPT_TOKENS, dense_bytes=1.0)
    of_coded_bound = median(measured[CODED][SINGLE]) / coded_bound
    goals = [
        report.Goal(
            what=f"{figure}, times transformers",
            value=_ratio(measured[OWN][figure], measured[PEER][figure]),
            wanted=wanted,
        )
        for figure, wanted in WANTED.items()
    ]
    goals.extend(
        report.Goal(
            what=f"{figure}, INT8 times bfloat16",
            value=_ratio(measured[CODED][figure], measured[OWN][figure]),
            wanted=wanted,
        )
        for figure, wanted in WANTED_CODED.items()
    )
    goals.append(
        report.Goal(
            what="cached 4k prefix, first token sooner than cold, times",
            value=_ratio(measured[OWN][COLD], measured[OWN][CACHED]),
            wanted=WANTED_CACHED,
        )
    )
    return report.Result(
        name="embedded",
        title="Embedded runtime and transformers' continuous batching",
        columns=("", *PLAYERS, "ratio", "to tuned", "INT8 to bf16", "of the limit"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"median of {len(measured[OWN][SINGLE])} interleaved repetitions, ± half their range; "
            "bfloat16, "
            f"{THREADS} threads each, prompt {PROMPT_TOKENS}, {NEW_TOKENS} new tokens; random "
            f"checkpoint: hidden {shape.hidden_size}, {shape.num_layers} layers, "
            f"{shape.num_experts} experts, vocabulary {shape.vocab_size}",
            agreed,
            "ratios are of the embedded runtime in bfloat16 to transformers, and of INT8 to it; "
            f"with INT8, decoding 1 stream reaches {of_coded_bound:.0%} of its own limit",
            f"limit: {best.bytes_per_second / 1e9:.1f} GB/s and "
            f"{best.operations_per_second / 1e9:.0f} GFLOP/s measured in this run",
            "transformers has no prefix cache for this architecture: its cached prompt is computed",
            "the environment of the service's engine process, which transformers has when tuned: "
            f"{', '.join(f'{name}={value}' for name, value in ENVIRONMENT.items())}",
        ),
        raw={
            f"{n}: {f}": values for n, figures in measured.items() for f, values in figures.items()
        },
        machine=machine,
        measured=report.now(),
    )


def _row(figure: str, measured: Measured, bounds: dict[str, float]) -> tuple[str, ...]:
    """Returns a line of the table; ratios above 1 are in favour of the embedded runtime or INT8."""
    own = measured[OWN][figure]
    ratios = [_ratio(own, measured[peer][figure]) for peer in PEERS]
    ratios.append(_ratio(measured[CODED][figure], own))
    if figure in TIMES:
        ratios = [1.0 / ratio for ratio in ratios]
    return (
        figure,
        *(_cell(measured[name][figure]) for name in PLAYERS),
        *(f"{ratio:.2f}" for ratio in ratios),
        f"{median(own) / bounds[figure]:.0%}" if figure in bounds else "",
    )


def _ratio(above: list[float], below: list[float]) -> float:
    """Returns the median ratio of what was measured one after the other."""
    return median(a / b for a, b in zip(above, below, strict=True))


def _cell(values: list[float]) -> str:
    return f"{median(values):.0f} (±{report.spread(values) / 2:.0%})"


if __name__ == "__main__":
    main()
