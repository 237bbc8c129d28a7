"""What the process boundary costs: CPU time per token on each side, without HTTP and a model.

`python -m benchmarks.boundary` runs 64 streams at one engine step every 2 ms (32,000 tokens per
second) and then as fast as the two processes go, and prints one line of JSON for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

import model_assets
from serving.job import Sampling
from serving.runtime import replay_engine
from serving.runtime.client import Stream
from serving.runtime.script import Repeat, Scenario, Script
from serving.runtime.supervisor import Supervisor

PROMPT_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run. CPU times are of the whole process, user and system, in microseconds a token."""

    streams: int
    pace_seconds: float
    tokens: int
    seconds: float
    tokens_per_second: float
    share_of_pace: float | None
    """Of the rate that the pace allows; None without a pace."""
    client_us_per_token: float
    host_us_per_token: float
    tokens_per_wake: float
    """How many tokens a stream got each time it was woken."""


async def measure(
    directory: Path, *, streams: int, tokens_each: int, pace_seconds: float
) -> Result:
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
    rate = tokens / seconds
    return Result(
        streams=streams,
        pace_seconds=pace_seconds,
        tokens=tokens,
        seconds=round(seconds, 3),
        tokens_per_second=round(rate),
        share_of_pace=round(rate * pace_seconds / streams, 4) if pace_seconds else None,
        client_us_per_token=round(client_cpu / tokens * 1e6, 3),
        host_us_per_token=round(host_cpu / tokens * 1e6, 3),
        tokens_per_wake=round(tokens / wakes, 2),
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


def main(arguments: list[str] | None = None) -> None:
    """Prints one JSON line for the paced run and one for the unpaced one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=5000, help="for each stream")
    parser.add_argument("--pace", type=float, default=0.002, help="seconds from step to step")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        for pace_seconds in (options.pace, 0.0):
            result = uvloop.run(
                measure(
                    Path(directory) / "engine",
                    streams=options.streams,
                    tokens_each=options.tokens,
                    pace_seconds=pace_seconds,
                )
            )
            fields = {name: getattr(result, name) for name in Result.__slots__}
            print(json.dumps({"benchmark": "boundary", **fields}))


if __name__ == "__main__":
    main()
