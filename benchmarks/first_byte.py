"""How long a client waits for the first byte of a stream, beside a bare ASGI app in the same run.

    python -m benchmarks.first_byte [--host uvicorn]

64 streams run on the replay runtime, a step every 2 ms. `turning`: each begins when another ends,
evenly spread, so 63 others run while one begins. `at once`: 64 requests arrive at the same moment
on open connections, so that the last of them waits for the work of all. The bare app sends chunks
of the same length at the same pace and does nothing else. The client shares the cores of the
machine with what it measures.

Each step gives a stream four tokens, the first one the three of Harmony's header and one of the
text, so that the first byte waits for one step and not for four.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import msgspec

from benchmarks import random_engine, report
from benchmarks.api_process import ROOT, Host, free_port, serving, wait_until_ready
from benchmarks.http_load import StreamClient, StreamResult, chat_request, load
from benchmarks.serving import MODEL, PACE_SECONDS, PROMPT, TEXT, check
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script, Tokens
from serving.harmony.vocabulary import CHANNEL, MESSAGE, Vocabulary

STREAMS = 64
STEP_TOKENS = 4
TOKENS = 1000 * STEP_TOKENS
TURNS = 4
BURSTS = 10
BURST_TOKENS = 100 * STEP_TOKENS
P50_MS, P99_MS = 5.0, 15.0


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """Times from a request to its first event, in milliseconds."""

    turning: list[float]
    at_once: list[float]


def write_engine(directory: Path) -> None:
    """Makes `directory` a replay engine that answers for ever, one chunk a stream each step."""
    vocabulary = Vocabulary.load(random_engine.RANKS)
    text = tuple(vocabulary.encode(TEXT))
    first = (CHANNEL, *vocabulary.encode("final"), MESSAGE, text[0])
    script = Script(
        scenarios=(Scenario(steps=(Tokens(ids=first), Repeat(ids=text))),),
        pace_seconds=PACE_SECONDS,
        tokens_per_step=STEP_TOKENS,
    )
    replay_engine.write(directory, script, ranks=random_engine.RANKS)


def request(port: int, tokens: int) -> bytes:
    """Returns a streamed request of exactly `tokens` tokens, which both servers understand."""
    body = {
        "model": MODEL,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "ignore_eos": True,
        "chunks": tokens // STEP_TOKENS,
        "step_seconds": PACE_SECONDS,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    return chat_request(port, body)


async def take_turns(port: int, streams: int, turns: int, tokens: int) -> list[StreamResult]:
    """Returns the streams that began while the others ran: all but the first of each line."""
    loop = asyncio.get_running_loop()
    payload = request(port, tokens)

    async def line(delay_seconds: float) -> list[StreamResult]:
        await asyncio.sleep(delay_seconds)
        results = []
        for _ in range(turns):
            _, client = await loop.create_connection(
                lambda: StreamClient(payload), "127.0.0.1", port
            )
            results.append(await client.done)
        return results[1:]

    spread_seconds = tokens / STEP_TOKENS * PACE_SECONDS / streams
    lines = await asyncio.gather(*(line(index * spread_seconds) for index in range(streams)))
    return [result for results in lines for result in results]


def measure(port: int, *, turns: int, bursts: int) -> Waits:
    """Returns how long each stream waited. Raises RuntimeError when one failed."""
    check(asyncio.run(load(port, [request(port, BURST_TOKENS)] * STREAMS)), BURST_TOKENS)
    turning = asyncio.run(take_turns(port, STREAMS, turns, TOKENS))
    check(turning, TOKENS)
    at_once = []
    for _ in range(bursts):
        at_once += asyncio.run(load(port, [request(port, BURST_TOKENS)] * STREAMS, held=True))
    check(at_once, BURST_TOKENS)
    return Waits(turning=[*map(_wait_ms, turning)], at_once=[*map(_wait_ms, at_once)])


def _wait_ms(result: StreamResult) -> float:
    return (result.first - result.sent) * 1e3


@contextmanager
def bare() -> Iterator[int]:
    """Runs the bare app and yields its port."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.bare_app:app", "--lifespan", "off"),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_ready(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def run(host: Host, *, turns: int, bursts: int) -> report.Result:
    """Measures both servers, one after the other."""
    machine = report.machine()
    with bare() as port:
        least = measure(port, turns=turns, bursts=bursts)
    with tempfile.TemporaryDirectory() as directory:
        engine = Path(directory) / "engine"
        write_engine(engine)
        with serving(engine, host) as service:
            ours = measure(service.port, turns=turns, bursts=bursts)
    return report.Result(
        name=f"first_byte_{host}",
        title=f"First byte of {STREAMS} streams at a step every {PACE_SECONDS * 1e3:g} ms, {host}",
        columns=("", "turning p50 ms", "turning p99 ms", "at once p50 ms", "at once p99 ms"),
        rows=(("replay runtime", *_columns(ours)), ("bare app", *_columns(least))),
        goals=tuple(
            report.Goal(what=f"first byte, {name}, ms", value=value, wanted=most, at_least=False)
            for name, value, most in (
                ("turning, p50", median(ours.turning), P50_MS),
                ("turning, p99", _p99(ours.turning), P99_MS),
            )
        ),
        notes=(
            f"{len(ours.turning)} streams that begin beside {STREAMS - 1} others, "
            f"{len(ours.at_once)} in {bursts} bursts",
            f"a step of the engine is in each: {PACE_SECONDS * 1e3 / 2:g} ms on average",
        ),
        raw={
            "turning_ms": ours.turning,
            "at_once_ms": ours.at_once,
            "bare_turning_ms": least.turning,
            "bare_at_once_ms": least.at_once,
        },
        machine=machine,
        measured=report.now(),
    )


def _columns(waits: Waits) -> tuple[str, ...]:
    pairs = ((median(some), _p99(some)) for some in (waits.turning, waits.at_once))
    return tuple(f"{value:.1f}" for pair in pairs for value in pair)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark, keeps its result, and returns 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description="How long a client waits for its first byte.")
    parser.add_argument("--host", choices=("bentoml", "uvicorn"), default="bentoml")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--bursts", type=int, default=BURSTS)
    chosen = parser.parse_args(arguments)
    result = run(chosen.host, turns=chosen.turns, bursts=chosen.bursts)
    report.publish(result)
    return 0 if all(goal.met for goal in result.goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
