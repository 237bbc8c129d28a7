"""Runs rank files: a process a rank, joined by gloo, with the embedded runtime's parallel.py.

`compare` shows that an engine that was cut gives the logits of the model in one piece; `answer`
runs its golden prompts. Both are for machines with CPUs: the service runs an engine of one rank.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden_prompts
from serving.boundary import engine
from serving.boundary.child import ENVIRONMENT, command, with_package
from serving.boundary.engine import CHECKPOINT_DIRECTORY, Engine
from serving.hosting import machine

COMPARED_TOKENS = 16
"""Of each golden prompt's answer."""
MOST_DIFFERENCE = 1e-3
"""Of a logit, relative to the largest magnitude. Only the order of sums may differ."""
POLL_SECONDS = 0.02
TASK_NAME = "task.json"
LOGITS_NAME = "logits-{}.npy"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes shall do. With `answers`, those tokens are taken instead of chosen."""

    directory: str
    ranks: int
    activations: str
    prompts: list[list[int]]
    answers: list[list[int]] | None = None
    max_tokens: int = 0
    stop: tuple[int, ...] = ()
    logits: bool = False


class RankAnswer(msgspec.Struct, frozen=True):
    """A process's tokens for each prompt."""

    tokens: tuple[list[int], ...]


class RankComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks' logits against those of the model in one piece, both in float32."""

    ranks: int
    positions: int
    largest_difference: float
    """Of a logit on any rank, to the largest magnitude of the whole model's logits."""


def compare(directory: Path, whole: Path, built: Engine) -> RankComparison:
    """Returns how near the rank files of an engine are to the checkpoint that they were cut from.

    Raises BuildError: PRECISION with the numbers when they are other numbers, DATA when a process
    fails.
    """
    import numpy as np

    asked = list(golden_prompts.prompts(directory / engine.RANKS_PATH).values())
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        one, many = Path(name) / "whole", Path(name) / "ranks"
        alone = Task(
            directory=str(whole),
            ranks=1,
            activations="float32",
            prompts=asked,
            max_tokens=COMPARED_TOKENS,
            stop=golden_prompts.STOP,
            logits=True,
        )
        (said,) = _run(alone, one)
        expected = np.load(one / LOGITS_NAME.format(0))
        count = built.mesh.tensor_parallel
        together = msgspec.structs.replace(
            alone,
            directory=str(directory / CHECKPOINT_DIRECTORY),
            ranks=count,
            answers=list(said.tokens),
        )
        _run(together, many)
        scale = float(np.abs(expected).max())
        found = [np.load(many / LOGITS_NAME.format(rank)) for rank in range(count)]
        largest = max(float(np.abs(one - expected).max()) for one in found) / scale
    if not largest <= MOST_DIFFERENCE:
        raise BuildError(
            ExitCode.PRECISION,
            f"{directory}: the logits of {count} ranks are off by {largest:.2g} of the largest "
            f"logit; the order of sums explains {MOST_DIFFERENCE:.2g}",
            "Build the engine again with --force",
        )
    return RankComparison(ranks=count, positions=len(expected), largest_difference=largest)


def answer(directory: Path, built: Engine, asked: Sequence[list[int]]) -> list[list[int]]:
    """Returns the greedy tokens of an engine of rank files for each prompt. Raises BuildError."""
    task = Task(
        directory=str(directory / CHECKPOINT_DIRECTORY),
        ranks=built.mesh.tensor_parallel,
        activations=built.precision.activations,
        prompts=list(asked),
        max_tokens=golden_prompts.MAX_TOKENS,
        stop=golden_prompts.STOP,
    )
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        return list(_run(task, Path(name))[0].tokens)


def read_task(work: Path) -> Task:
    """Returns the task in a work directory."""
    return msgspec.json.decode((work / TASK_NAME).read_bytes(), type=Task)


def answer_name(rank: int) -> str:
    """Returns the name of a rank's answer in the work directory."""
    return f"answer-{rank}.json"


def _run(task: Task, work: Path) -> list[RankAnswer]:
    """Returns every rank's answer. No process outlives this, however it ends."""
    work.mkdir(parents=True, exist_ok=True)
    (work / TASK_NAME).write_bytes(msgspec.json.encode(task))
    threads = max(1, machine.processors() // task.ranks)
    environment = with_package(ENVIRONMENT | os.environ)
    environment |= {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(task.ranks):
            options = (str(work), str(rank))
            with (work / f"errors-{rank}").open("wb") as errors:
                processes.append(
                    subprocess.Popen(
                        command("engine_build.proof.rank_process", *options),
                        env=environment,
                        stderr=errors,
                    )
                )
        _wait(processes, work, task.directory)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        msgspec.json.decode((work / answer_name(rank)).read_bytes(), type=RankAnswer)
        for rank in range(task.ranks)
    ]


def _wait(processes: list[subprocess.Popen[bytes]], work: Path, directory: str) -> None:
    """Returns when all have done their work; raises BuildError as soon as one has failed, which
    the others would wait for."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code not in (None, 0):
                told = (work / f"errors-{rank}").read_text("utf-8", "replace").splitlines()
                reason = told[-1] if told else f"exit code {code}"
                raise BuildError(
                    ExitCode.DATA, f"{directory}: rank {rank} of {len(codes)} failed: {reason}"
                )
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL_SECONDS)
