"""Trains the development checkpoint: `python -m model_assets.development.recipe`.

Writes the compact file, its manifest and an evaluation report. The same machine kind, torch
version and seed give the same bytes; elsewhere the last bits of a sum may differ.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections import deque
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model_assets import manifest
from model_assets.development import compact as compact_file
from model_assets.development.batches import batches, copies
from model_assets.development.compact import Compact
from model_assets.development.conversations import Example, Generator
from model_assets.development.evaluation import Score, evaluate, network_of
from model_assets.development.exchanges import read_questions
from model_assets.development.network import Network
from model_assets.development.rows import (
    Rows,
    common_ids,
    copyable_words,
    junk_words,
    rows_of,
)
from model_assets.development.shape import Shape
from model_assets.development.training import Plan, Step, train
from serving.engine import sha256
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary

ASSETS = Path(__file__).parents[1]
RANKS = ASSETS / "tokenizer" / "o200k_base.tiktoken.xz"
COMPACT = Path(__file__).with_name("development.safetensors")
REPORT = Path(__file__).with_name("evaluation.json")
SURVEY_EXAMPLES = 6000
JUNK_WORDS = 4000
SHARPNESS = 1.25


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run cost and what its checkpoint can do, by kind of example."""

    seed: int
    plan: Plan
    rows: int
    compact_bytes: int
    sha256: str
    wall_seconds: float
    cpu_seconds: float
    threads: int
    machine: str
    torch: str
    last_loss: float
    greedy: dict[str, Score]
    sampled: dict[str, Score]


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: giving them back costs a third of each step."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)
    libc.mallopt(top_pad, 1 << 28)


def survey(vocabulary: Vocabulary, seed: int, size: int) -> Rows:
    """Returns rows for frequent words, numbers, and all tokens of many generated examples."""
    ids = set(common_ids(vocabulary))
    generator = Generator(Random(seed), read_questions(), ["apple"], ["apple"])
    for _ in range(SURVEY_EXAMPLES):
        (example,) = generator.scene(1)
        ids.update(render(example.conversation, vocabulary))
        ids.update(render_completion(example.answer, vocabulary))
    return rows_of(ids, size)


def examples(generator: Generator, count: int) -> list[Example]:
    """Returns examples of `count` different scenes."""
    return [example for _ in range(count) for example in generator.scene(1)]


def write_manifest(compact: Compact, path: Path) -> str:
    """Writes the checkpoint manifest of the compact file and returns the file's sha256."""
    digest = sha256(path)
    checkpoint = manifest.Checkpoint(
        name="development",
        repository="model_assets",
        revision=digest,
        revision_source="Made by model_assets/development/recipe.py; the revision is its sha256.",
        license="Apache-2.0",
        stand_in=True,
        architecture=compact.shape,
        files=(
            manifest.CheckpointFile(
                path=path.relative_to(ASSETS).as_posix(),
                size_bytes=path.stat().st_size,
                sha256=digest,
            ),
        ),
    )
    text = msgspec.json.format(msgspec.json.encode(checkpoint), indent=2)
    (manifest.CHECKPOINTS / "development.json").write_bytes(text + b"\n")
    return digest


def learn(network: Network, plan: Plan, generator: Generator, rows: Rows, seed: int) -> float:
    """Trains with a progress bar and returns the mean loss of the last 50 steps."""
    vocabulary = Vocabulary.load(RANKS)
    losses: deque[float] = deque(maxlen=50)
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("training", total=plan.steps, loss=0.0)

        def report(step: Step) -> None:
            losses.append(step.loss)
            bar.update(task, completed=step.number + 1, loss=sum(losses) / len(losses))

        conversations = batches(generator, vocabulary, rows)
        train(network, plan, copies(Random(seed), rows), conversations, report)
    return sum(losses) / len(losses)


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = Plan().steps,
    seed: Annotated[int, typer.Option(help="Seed of data and first weights.")] = 11,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    checked: Annotated[int, typer.Option(help="Examples in the evaluation.")] = 300,
) -> None:
    """Trains the development checkpoint and writes it, its manifest and its report."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    started, started_cpu = time.monotonic(), time.process_time()
    vocabulary, questions, shape = Vocabulary.load(RANKS), read_questions(), Shape()
    rows = survey(vocabulary, seed, shape.vocab_size)
    words = copyable_words(vocabulary, rows)
    junk = junk_words(vocabulary, rows, Random(seed), JUNK_WORDS)
    network = Network(shape, len(rows.ids))
    plan = Plan(steps=steps)
    loss = learn(network, plan, Generator(Random(seed), questions, words, junk), rows, seed)
    wall, cpu = time.monotonic() - started, time.process_time() - started_cpu
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    compact = compact_file.assemble(shape, rows.ids, weights, SHARPNESS)
    compact_file.write(COMPACT, compact)
    digest = write_manifest(compact, COMPACT)
    fresh = examples(Generator(Random(seed + 1), questions, words, junk), checked)
    written = network_of(compact_file.read(COMPACT))
    greedy, sampled = (
        evaluate(written, rows, vocabulary, fresh, temperature, seed) for temperature in (0.0, 1.0)
    )
    report = Report(
        seed=seed,
        plan=plan,
        rows=len(rows.ids),
        compact_bytes=COMPACT.stat().st_size,
        sha256=digest,
        wall_seconds=round(wall, 1),
        cpu_seconds=round(cpu, 1),
        threads=threads,
        machine=platform.machine(),
        torch=torch.__version__,
        last_loss=round(loss, 5),
        greedy=greedy,
        sampled=sampled,
    )
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    REPORT.write_bytes(text + b"\n")
    Console().print(f"Wrote {COMPACT} ({report.compact_bytes} bytes, sha256 {digest})")


if __name__ == "__main__":
    typer.run(main)
