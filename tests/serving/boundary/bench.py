"""A replay runtime on a table: no process, no real time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import model_assets
from serving.boundary.engine import Limits
from serving.boundary.messages import Generate, Output
from serving.boundary.sampling import Sampling
from serving.engines.replay import directory as writer
from serving.engines.replay import script as scripts
from serving.engines.replay.runtime import ReplayRuntime
from serving.engines.replay.script import Scenario, Script, ScriptStep

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
TEN = scripts.Tokens(ids=tuple(range(10, 20)))


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self.late_seconds = 0.0
        """How much longer than asked for each sleep takes."""

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.now += seconds + self.late_seconds


class Bench:
    """A replay runtime on a table: no process, no real time."""

    def __init__(self, directory: Path, script: Script, limits: Limits = writer.LIMITS) -> None:
        writer.write(directory, script, ranks=RANKS, limits=limits)
        self.time = Time()
        self.runtime = ReplayRuntime.load(directory, clock=self.time.clock, sleep=self.time.sleep)
        self.outputs: dict[int, list[Output]] = {}

    def submit(self, sequence_id: int, prompt: list[int] | None = None, **sampling: Any) -> None:
        fields = {"max_tokens": 1000} | sampling
        self.runtime.submit(Generate(sequence_id, prompt or [1], Sampling(**fields)))

    def step(self, times: int = 1) -> list[Output]:
        """Runs steps and returns the outputs of the last one."""
        outputs: list[Output] = []
        for _ in range(times):
            step = self.runtime.step()
            outputs = [] if step is None else step.outputs
            for output in outputs:
                self.outputs.setdefault(output.id, []).append(output)
        return outputs

    def tick(self, times: int = 1) -> None:
        """Runs until so many steps gave something."""
        for _ in range(times):
            while not self.step():
                assert self.runtime.busy

    def finish(self, limit: int = 10_000) -> None:
        """Runs until nothing is left to do."""
        for _ in range(limit):
            if not self.runtime.busy:
                return
            self.step()
        raise AssertionError("it never ends")

    def tokens(self, sequence_id: int) -> list[int]:
        return [token for output in self.outputs[sequence_id] for token in output.tokens]

    def end(self, sequence_id: int) -> str:
        return self.outputs[sequence_id][-1].finish


def bench(path: Path, *steps: ScriptStep, limits: Limits = writer.LIMITS, pace: float = 0) -> Bench:
    return Bench(path, Script(scenarios=(Scenario(steps=steps),), pace_seconds=pace), limits=limits)
