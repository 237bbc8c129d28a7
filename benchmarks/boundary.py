"""What the process boundary costs: CPU time per token on each side, without HTTP and a model.

64 streams at one engine step every 2 ms (32,000 tokens per second), and then as fast as the two
processes go. The engine process plays a script; its own part is in its figure.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import uvloop

import model_assets
from benchmarks import report
from serving.boundary.client import Stream
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script

STREAMS = 64
PACE_SECONDS = 0.002
TOKENS_EACH = 2500
REPETITIONS = 3
PROMPT_TOKENS = 128

PACE_HELD = 0.98
CLIENT_US = 3.0
"""Of the 25 microseconds that the API process may spend on a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCost:
    """One run. CPU times are of the whole process, user and system, in microseconds a token."""

    tokens: int
    seconds: float
    client_us: float
    host_us: float
    tokens_per_wake: float
    """How many tokens a stream got each time it was woken."""

    @property
    def tokens_per_second(self) -> float:
        """The rate over all streams."""
        return self.tokens / self.seconds


def main() -> None:
    """Measures, prints and keeps the result."""
    machine = report.machine()
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "engine"
        paced, free = [], []
        for _ in range(REPETITIONS):
            paced.append(run(directory, pace_seconds=PACE_SECONDS))
            free.append(run(directory, pace_seconds=0.0))
    report.publish(result(paced, free, machine))


def run(
    directory: Path,
    *,
    pace_seconds: float,
    streams: int = STREAMS,
    tokens_each: int = TOKENS_EACH,
) -> BoundaryCost:
    """Returns the cost of one run on an event loop of its own."""
    return uvloop.run(
        measure(directory, streams=streams, tokens_each=tokens_each, pace_seconds=pace_seconds)
    )


def result(
    paced: list[BoundaryCost], free: list[BoundaryCost], machine: report.Machine
) -> report.Result:
    """Returns the medians of the repetitions, with the goals for the paced ones."""
    held = median(cost.tokens_per_second for cost in paced) * PACE_SECONDS / STREAMS
    client_us = median(cost.client_us for cost in paced)
    return report.Result(
        name="boundary",
        title=f"Process boundary, {STREAMS} streams",
        columns=("", "tokens/s", "client us/token", "engine process us/token", "tokens/wake"),
        rows=(row(f"a step every {PACE_SECONDS * 1000:g} ms", paced), row("no pace", free)),
        goals=(
            report.Goal(what="share of the pace that is held", value=held, wanted=PACE_HELD),
            report.Goal(
                what="CPU of the API process for the boundary, us/token",
                value=client_us,
                wanted=CLIENT_US,
                at_least=False,
            ),
        ),
        notes=(f"medians of {REPETITIONS} runs of {TOKENS_EACH} tokens a stream",),
        raw={
            "paced_client_us": [cost.client_us for cost in paced],
            "paced_host_us": [cost.host_us for cost in paced],
            "free_client_us": [cost.client_us for cost in free],
            "free_host_us": [cost.host_us for cost in free],
        },
        machine=machine,
        measured=report.now(),
    )


def row(name: str, costs: list[BoundaryCost]) -> tuple[str, ...]:
    """Returns the medians of some runs as text."""
    return (
        name,
        f"{median(cost.tokens_per_second for cost in costs):,.0f}",
        f"{median(cost.client_us for cost in costs):.2f}",
        f"{median(cost.host_us for cost in costs):.2f}",
        f"{median(cost.tokens_per_wake for cost in costs):.1f}",
    )


async def measure(
    directory: Path, *, streams: int, tokens_each: int, pace_seconds: float
) -> BoundaryCost:
    """Returns the cost of `streams` sequences of `tokens_each` tokens, played from `directory`."""
    script = Script(
        scenarios=(Scenario(steps=(Repeat(ids=tuple(range(1000, 1064))),)),),
        pace_seconds=pace_seconds,
    )
    ranks = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
    replay_engine.write(directory, script, ranks=ranks)
    supervisor = Supervisor(directory)
    await supervisor.start()
    await supervisor.settled()
    if supervisor.pid is None:
        raise RuntimeError(f"the engine did not start: {supervisor.history[-1].detail}")
    host, client = psutil.Process(supervisor.pid), psutil.Process()
    host_before, client_before = cpu_seconds(host), cpu_seconds(client)
    began = time.perf_counter()
    sampling = Sampling(max_tokens=tokens_each)
    prompt = list(range(PROMPT_TOKENS))
    opened = [supervisor.open([*prompt, index], [sampling]) for index in range(streams)]
    counts = await asyncio.gather(*map(count, opened))
    seconds = time.perf_counter() - began
    host_cpu, client_cpu = cpu_seconds(host) - host_before, cpu_seconds(client) - client_before
    await supervisor.stop()
    tokens, wakes = sum(one[0] for one in counts), sum(one[1] for one in counts)
    if tokens != streams * tokens_each:
        raise RuntimeError(f"{tokens} tokens arrived, {streams * tokens_each} were generated")
    return BoundaryCost(
        tokens=tokens,
        seconds=seconds,
        client_us=client_cpu / tokens * 1e6,
        host_us=host_cpu / tokens * 1e6,
        tokens_per_wake=tokens / wakes,
    )


async def count(stream: Stream) -> tuple[int, int]:
    """Returns how many tokens a stream brought, and how often its reader was woken."""
    tokens = wakes = 0
    while arrived := await stream.receive():
        wakes += 1
        for _, output in arrived:
            tokens += len(output.tokens)
    return tokens, wakes


def cpu_seconds(process: psutil.Process) -> float:
    """Returns the user and system time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
