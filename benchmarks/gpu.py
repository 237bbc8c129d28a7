"""What only a GPU can show: CUDA graphs against eager steps, the tests, and decode throughput.

    python -m benchmarks.gpu [--device cuda|cpu]

On a GPU it runs the embedded runtime's tests there, compares the tokens of captured and of eager
steps, and prints decode rates of a random checkpoint in the shape of gpt-oss-20b beside the memory
bound. Without one it says so and runs the same code on the CPU with a tiny checkpoint, where the
"graphs" are the same padded steps without capture; those rates mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from rich.console import Console

from benchmarks import limits, report
from benchmarks.checkpoints import TINY, TWENTY_BILLION, CheckpointShape, ensure
from benchmarks.runtime import BLOCK_TOKENS, open_runtime, run
from serving.engines.embedded.runtime import EmbeddedRuntime

TESTS = "tests/serving/engines/embedded"
DEVICE_VARIABLE = "EMBEDDED_DEVICE"


@dataclass(frozen=True, slots=True)
class Workload:
    """What is run on one kind of device."""

    shape: CheckpointShape
    batches: tuple[int, ...]
    graph_batch_sizes: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    compared_tokens: int
    megabytes: int
    side: int
    """The last two: what the limits are measured with, see `limits.measure`."""


ON_GPU = Workload(
    shape=TWENTY_BILLION,
    batches=(1, 16, 64),
    graph_batch_sizes=(1, 2, 4, 8, 16, 32, 64),
    prompt_tokens=1024,
    new_tokens=256,
    compared_tokens=64,
    megabytes=4096,
    side=8192,
)
ON_CPU = Workload(
    shape=TINY,
    batches=(1, 3),
    graph_batch_sizes=(1, 2, 4),
    prompt_tokens=40,
    new_tokens=8,
    compared_tokens=8,
    megabytes=16,
    side=256,
)


def main(device: str | None = None) -> None:
    """Runs what the device allows. None: a GPU when there is one."""
    console = Console()
    machine = report.machine()
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU on this machine")
    if device == "cpu":
        console.print(
            "No GPU is used: the same code runs on the CPU with a tiny checkpoint. It shows that "
            "the code works and that padded steps give the tokens of plain ones, not a speed."
        )
        report.show(measure(ON_CPU, torch.device("cpu"), machine), console)
        return
    suite = _run_tests()
    found = measure(ON_GPU, torch.device("cuda"), machine)
    passed = report.Goal(
        what="exit status of the embedded tests on the GPU", value=suite, wanted=0, at_least=False
    )
    report.publish(msgspec.structs.replace(found, goals=(*found.goals, passed)))


def measure(plan: Workload, device: torch.device, machine: report.Machine) -> report.Result:
    """Compares graphs with eager steps, measures decode rates, and returns both as a result."""
    checkpoint = ensure(plan.shape, report.CHECKPOINTS)
    source = random.Random(5)
    prompts = [
        [source.randrange(plan.shape.vocab_size) for _ in range(plan.prompt_tokens)]
        for _ in range(max(plan.batches))
    ]
    best = limits.measure(device, megabytes=plan.megabytes, side=plan.side)

    def opened(graph_batch_sizes: Sequence[int]) -> EmbeddedRuntime:
        each = -(-(plan.prompt_tokens + plan.new_tokens) // BLOCK_TOKENS) + 1
        return open_runtime(
            checkpoint,
            max_batch_size=max(plan.batches),
            max_num_tokens=8192,
            cache_tokens=each * BLOCK_TOKENS * max(plan.batches),
            device=device.type,
            graph_batch_sizes=graph_batch_sizes,
            native=False,
        )

    runtime = opened(())
    eager = _tokens(runtime, plan, prompts)
    runtime.close()
    del runtime
    runtime = opened(plan.graph_batch_sizes)
    differ = sum(a != b for a, b in zip(eager, _tokens(runtime, plan, prompts), strict=True))
    rows = [_row(runtime, plan, batch, prompts, best) for batch in plan.batches]
    runtime.close()
    return report.Result(
        name="gpu",
        title=f"Decode on {_device_name(device)}, random checkpoint in the shape {plan.shape.name}",
        columns=("streams", "tok/s", "tok/s a stream", "memory bound", "of the bound"),
        rows=tuple(rows),
        goals=(
            report.Goal(
                what="streams whose tokens differ between graphs and eager steps",
                value=differ,
                wanted=0,
                at_least=False,
            ),
        ),
        notes=(
            f"prompt {plan.prompt_tokens}, {plan.new_tokens} new tokens, greedy, bfloat16; "
            f"{best.bytes_per_second / 1e9:.0f} GB/s measured; the runtime holds experts in "
            "bfloat16, so the bound counts 2 bytes a weight",
        ),
        machine=machine,
        measured=report.now(),
    )


def _tokens(
    runtime: EmbeddedRuntime, plan: Workload, prompts: Sequence[list[int]]
) -> list[list[int]]:
    """Returns greedy tokens of batches of every size from 1 up to what a few steps allow.

    Lengths differ, so that padding to the next captured size and to longer contexts is in it.
    """
    tokens = []
    for batch in sorted({1, 2, 3, 5, max(plan.batches)} & set(range(max(plan.batches) + 1))):
        ragged = [
            prompt[: 1 + len(prompt) // (1 + row)] for row, prompt in enumerate(prompts[:batch])
        ]
        tokens += run(runtime, ragged, plan.compared_tokens).tokens
    return tokens


def _row(
    runtime: EmbeddedRuntime,
    plan: Workload,
    batch: int,
    prompts: Sequence[list[int]],
    best: limits.Limits,
) -> tuple[str, ...]:
    run(runtime, prompts[:batch], plan.new_tokens)  # captures what this batch size needs
    rate = run(runtime, prompts[:batch], plan.new_tokens).decode_tokens_per_second
    held = replace(plan.shape, experts="bf16")
    context = plan.prompt_tokens + plan.new_tokens // 2
    bound = limits.decode_tokens_per_second(held, best, batch, context)
    return str(batch), f"{rate:.0f}", f"{rate / batch:.0f}", f"{bound:.0f}", f"{rate / bound:.0%}"


def _run_tests() -> int:
    """Runs the embedded runtime's tests on the GPU and returns pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-q", TESTS]
    return subprocess.run(
        command, env=os.environ | {DEVICE_VARIABLE: "cuda"}, check=False
    ).returncode


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What only a GPU can show.")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    main(parser.parse_args().device)
