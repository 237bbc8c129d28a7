"""Trains the development checkpoint: `python -m model_assets.development.recipe`.

Writes the compact file, its manifest and an evaluation report. The same machine kind, torch
version, seeds and number of workers give the same bytes; elsewhere the last bits of a sum may
differ.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
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
from model_assets.development.batches import BATCH_TOKENS, Batch, batches
from model_assets.development.catalogue import read_catalogue
from model_assets.development.compact import Compact
from model_assets.development.conversations import Generator, Lesson
from model_assets.development.documented import documented
from model_assets.development.evaluation import Score, evaluate, network_of
from model_assets.development.exchanges import read_questions
from model_assets.development.network import Network
from model_assets.development.rows import Rows, junk_words, large_number, number_ids, rows_of
from model_assets.development.shape import Shape
from model_assets.development.training import TrainingPlan, TrainingStep, train
from model_assets.development.workers import joined
from serving.boundary.engine import sha256
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary

ASSETS = Path(__file__).parents[1]
RANKS = ASSETS / "tokenizer" / "o200k_base.tiktoken.xz"
COMPACT = Path(__file__).with_name("development.safetensors")
REPORT = Path(__file__).with_name("evaluation.json")
SURVEY_EXAMPLES = 12000
JUNK_WORDS = 4000
SHARPNESS = 3.0


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """One seed for every source of randomness."""

    survey: int = 3
    junk: int = 5
    data: int = 11
    weights: int = 7
    evaluation: int = 999


class Material(msgspec.Struct, frozen=True):
    """What data is made of: vocabulary, rows, and words without rows."""

    vocabulary: Vocabulary
    rows: Rows
    junk: list[str]

    def generator(self, seed: int, lesson: Lesson = "all") -> Generator:
        """Returns a generator of scenes."""
        return Generator(Random(seed), read_questions(), read_catalogue(), self.junk, lesson)

    def lessons(self, plan: TrainingPlan, seed: int, tokens: int) -> Iterator[Batch]:
        """Yields the training's batches: one lesson after the other, the last without end."""
        first = round(plan.steps * plan.talk_share)
        second = round(plan.steps * plan.tools_share)
        parts: tuple[tuple[Lesson, int | None], ...] = (
            ("talk", first),
            ("tools", second),
            ("all", None),
        )
        for lesson, steps in parts:
            generator = self.generator(seed, lesson)
            yield from islice(batches(generator, self.vocabulary, self.rows, tokens), steps)


class Learned(msgspec.Struct, frozen=True):
    """A trained network, the ids of its rows, and the mean loss of the last 50 steps."""

    network: Network
    rows: Sequence[int]
    loss: float


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a run cost and what its checkpoint can do, by kind of example."""

    seeds: Seeds
    plan: TrainingPlan
    rows: int
    compact_bytes: int
    sha256: str
    wall_seconds: float
    cpu_seconds: float
    workers: int
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


def prepare(seeds: Seeds, size: int) -> Material:
    """Returns the material: rows for small numbers and for the tokens of generated examples."""
    vocabulary = Vocabulary.load(RANKS)
    ids = set(number_ids(vocabulary))
    generator = Generator(Random(seeds.survey), read_questions(), read_catalogue(), ["apple"])
    for _ in range(SURVEY_EXAMPLES):
        (example,) = generator.scene(1)
        prompt = render(example.conversation, vocabulary)
        ids.update(token for token in prompt if not large_number(vocabulary, token))
        ids.update(render_completion(example.answer, vocabulary))
    rows = rows_of(ids, size)
    junk = junk_words(vocabulary, rows, Random(seeds.junk), JUNK_WORDS)
    return Material(vocabulary, rows, junk)


def write_manifest(compact: Compact, path: Path) -> str:
    """Writes the checkpoint manifest of the compact file and returns the file's sha256."""
    digest = sha256(path)
    checkpoint = manifest.CheckpointManifest(
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


def learn(plan: TrainingPlan, seeds: Seeds, shape: Shape, worker: int, workers: int) -> Learned:
    """Does one worker's part of the training, the first with a progress bar.

    All of them end with the same network.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    material = prepare(seeds, shape.vocab_size)
    torch.manual_seed(seeds.weights)
    network = Network(shape, len(material.rows.ids))
    lessons = material.lessons(plan, seeds.data + worker, BATCH_TOKENS // workers)
    losses: deque[float] = deque(maxlen=50)
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=worker > 0,
    )
    with bar:
        task = bar.add_task("training", total=plan.steps, loss=0.0)

        def report(step: TrainingStep) -> None:
            losses.append(step.loss)
            bar.update(task, completed=step.number + 1, loss=sum(losses) / len(losses))

        train(network, plan, lessons, report)
    return Learned(network, material.rows.ids, sum(losses) / len(losses))


def scores(
    seeds: Seeds, shape: Shape, count: int, temperature: float, path: Path = COMPACT
) -> dict[str, Score]:
    """Returns how well it does what is documented, and what `count` scenes want that are new."""
    torch.set_num_threads(1)
    material = prepare(seeds, shape.vocab_size)
    generator = material.generator(seeds.evaluation)
    fresh = [example for _ in range(count) for example in generator.scene(1)]
    asked = [*documented(), *fresh]
    network = network_of(compact_file.read(path))
    return evaluate(
        network, material.rows, material.vocabulary, asked, temperature, seeds.evaluation
    )


def write_report(report: TrainingReport, path: Path = REPORT) -> None:
    """Writes the report as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainingPlan().steps,
    workers: Annotated[int, typer.Option(help="Processes, one thread each.")] = 2,
    examples: Annotated[int, typer.Option(help="Scenes in the evaluation.")] = 300,
) -> None:
    """Trains the development checkpoint and writes it, its manifest and its report."""
    started = time.monotonic()
    plan, seeds, shape = TrainingPlan(steps=steps), Seeds(), Shape()
    work = partial(learn, plan, seeds, shape)
    with joined(workers, work):
        learned = work(0, workers)
    wall, cpu = time.monotonic() - started, sum(os.times()[:4])
    weights = {name: tensor.numpy() for name, tensor in learned.network.state_dict().items()}
    made = compact_file.assemble(shape, learned.rows, weights, SHARPNESS)
    compact_file.write(COMPACT, made)
    digest = write_manifest(made, COMPACT)
    console = Console(stderr=True)
    with (
        console.status("evaluating"),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        greedy, sampled = pool.map(partial(scores, seeds, shape, examples), (0.0, 1.0))
    report = TrainingReport(
        seeds=seeds,
        plan=plan,
        rows=len(learned.rows),
        compact_bytes=COMPACT.stat().st_size,
        sha256=digest,
        wall_seconds=round(wall, 1),
        cpu_seconds=round(cpu, 1),
        workers=workers,
        machine=platform.machine(),
        torch=str(torch.__version__),
        last_loss=round(learned.loss, 5),
        greedy=greedy,
        sampled=sampled,
    )
    write_report(report)
    console.print(f"Wrote {COMPACT} ({report.compact_bytes} bytes, sha256 {digest})")


if __name__ == "__main__":
    typer.run(main)
