"""One contender in a process of its own, so that memory and threads of two are never mixed.

`python -m benchmarks.worker NAME CHECKPOINT DTYPE` loads the contender and then answers each line
on standard input with a line on standard output, both JSON. `Worker` is the other end.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.contenders import CONTENDERS
from benchmarks.report import STATE
from benchmarks.timeline import Timeline
from serving.boundary.child import ENVIRONMENT

LOGS = STATE / "logs"


class Order(msgspec.Struct):
    """What the worker is to generate."""

    prompts: list[list[int]]
    max_tokens: int


class WorkerAnswer(msgspec.Struct):
    """What came of it. `peak_bytes` is the most memory that the process has held so far."""

    timeline: Timeline
    peak_bytes: int


class WorkerError(Exception):
    """A worker ended early. The message holds the end of what it wrote to standard error."""


class Worker:
    """Starts a contender and waits until it has loaded. Use it as a context manager."""

    def __init__(
        self,
        name: str,
        checkpoint: Path,
        threads: int,
        dtype: str = "bfloat16",
        logs: Path = LOGS,
        *,
        as_engine: bool = True,
    ) -> None:
        """Starts the process; `as_engine` gives it the environment of the engine process."""
        self.peak_bytes = 0
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        if as_engine:
            environment = ENVIRONMENT | os.environ | environment
        else:
            inherited = {name: os.environ[name] for name in os.environ if name not in ENVIRONMENT}
            environment = inherited | environment
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{name}.log"
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", name, str(checkpoint), dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._read()

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        """Returns the contender's timeline for these prompts. Raises WorkerError."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(Order(prompts, max_tokens)) + b"\n")
        self._process.stdin.flush()
        answer = msgspec.json.decode(self._read(), type=WorkerAnswer)
        self.peak_bytes = answer.peak_bytes
        return answer.timeline

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._close()
            tail = self._log.read_text(errors="replace")[-2000:]
            raise WorkerError(f"exit code {self._process.returncode}\n{tail}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Ends the process: it leaves when its standard input ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(name: str, checkpoint: Path, dtype: str) -> None:
    """Answers orders until standard input ends."""
    # Libraries may print: what they write must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    contender = CONTENDERS[name]()
    contender.load(checkpoint, dtype)
    answers.write(b"loaded\n")
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        timeline = contender.generate(order.prompts, order.max_tokens)
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(msgspec.json.encode(WorkerAnswer(timeline, peak_bytes)) + b"\n")
    contender.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
