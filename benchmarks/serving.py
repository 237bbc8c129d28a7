"""What the service costs on top of its engine: CPU a token, pace, and served against own rate.

    python -m benchmarks.serving                 both parts, through `bentoml serve`
    python -m benchmarks.serving --host uvicorn  the app without BentoML
    python -m benchmarks.serving pace            64 streams of the replay runtime, a step each 2 ms
    python -m benchmarks.serving rate --engine D 16 streams of an engine, over HTTP and in process

Goals: the pace of 32,000 tokens a second is held at 25 microseconds of CPU a token or less in the
API process; tokens through HTTP are at least 0.9 of the runtime's own rate in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import model_assets
from benchmarks.api_process import ApiProcess, Host, serving
from benchmarks.http_load import StreamResult, chat_request, load
from serving.harmony.vocabulary import CHANNEL, MESSAGE, Vocabulary
from serving.runtime import replay_engine
from serving.runtime.process import ENVIRONMENT
from serving.runtime.script import Repeat, Scenario, Script, Tokens

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
MODEL = "openai/gpt-oss-120b"
STREAMS = 64
PACE_SECONDS = 0.002
PACED_TOKENS = 3000
HEADER_TOKENS = 3
RATE_STREAMS = 16
RATE_TOKENS = 256
TEXT = "Tokens of an answer, as they come from a model that writes about the weather in Lisbon. "
PROMPT = "Write about the weather."


def write_paced_engine(directory: Path) -> None:
    """Makes `directory` a replay engine that answers for ever, one token a stream each step."""
    vocabulary = Vocabulary.load(RANKS)
    header = (CHANNEL, *vocabulary.encode("final"), MESSAGE)
    steps = (Tokens(ids=header), Repeat(ids=tuple(vocabulary.encode(TEXT))))
    script = Script(scenarios=(Scenario(steps=steps),), pace_seconds=PACE_SECONDS)
    replay_engine.write(directory, script, ranks=RANKS)


def request_body(max_tokens: int) -> dict[str, object]:
    """Returns a streamed chat request that gives exactly `max_tokens` tokens."""
    return {
        "model": MODEL,
        "stream": True,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": PROMPT}],
    }


def measure_pace(service: ApiProcess, tokens: int) -> dict[str, float]:
    """Returns what 64 paced streams of `tokens` tokens cost and whether they kept their time."""
    request = chat_request(service.port, request_body(tokens))
    asyncio.run(load(service.port, [chat_request(service.port, request_body(50))] * STREAMS))
    before = service.cpu_seconds()
    results = asyncio.run(load(service.port, [request] * STREAMS))
    after = service.cpu_seconds()
    check(results)
    total = tokens * STREAMS
    seconds = max(result.last for result in results) - min(result.first for result in results)
    # The role, the finish reason and [DONE] are not tokens; the header's tokens give no event.
    chunks = sum(result.events - 3 for result in results)
    return {
        "tokens": total,
        "tokens_per_second": total / seconds,
        "pace_held": total / seconds * PACE_SECONDS / STREAMS,
        "api_cpu_us_per_token": (after[0] - before[0]) / total * 1e6,
        "engine_cpu_us_per_token": (after[1] - before[1]) / total * 1e6,
        "chunks_per_token": chunks / (total - HEADER_TOKENS * STREAMS),
        "reads_per_chunk": sum(result.reads for result in results) / chunks,
        "first_event_ms_p50": median(result.first - result.sent for result in results) * 1e3,
    }


def check(results: list[StreamResult]) -> None:
    """Raises RuntimeError unless every stream came to its proper end."""
    for result in results:
        if b" 200 " not in result.status or b"[DONE]" not in result.tail:
            raise RuntimeError(f"a stream failed: {result.status!r} ... {result.tail!r}")


def measure_served_rate(service: ApiProcess, streams: int, tokens: int) -> float:
    """Returns the tokens a second of `streams` equal requests over HTTP."""
    requests = [chat_request(service.port, request_body(tokens))] * streams
    asyncio.run(load(service.port, [chat_request(service.port, request_body(8))] * streams))
    results = asyncio.run(load(service.port, requests))
    check(results)
    seconds = max(result.last for result in results) - min(result.sent for result in results)
    return streams * tokens / seconds


def measure_own_rate(engine: Path, streams: int, tokens: int) -> float:
    """Returns the tokens a second of the runtime alone, in a process without a server."""
    command = [
        *(sys.executable, "-m", "benchmarks.runtime_rate", str(engine)),
        *(str(streams), str(tokens), PROMPT),
    ]
    environment = ENVIRONMENT | dict(os.environ)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])


def run_pace(host: Host, tokens: int) -> dict[str, float]:
    """Runs the first part and returns its numbers."""
    with tempfile.TemporaryDirectory() as directory:
        engine = Path(directory) / "paced"
        write_paced_engine(engine)
        with serving(engine, host) as service:
            return measure_pace(service, tokens)


def run_rate(host: Host, engine: Path, rounds: int) -> dict[str, float]:
    """Runs the second part, alternating, and returns the medians."""
    own: list[float] = []
    served: list[float] = []
    for _ in range(rounds):
        own.append(measure_own_rate(engine, RATE_STREAMS, RATE_TOKENS))
        with serving(engine, host) as service:
            served.append(measure_served_rate(service, RATE_STREAMS, RATE_TOKENS))
    return {
        "own_tokens_per_second": median(own),
        "served_tokens_per_second": median(served),
        "ratio": median(served) / median(own),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts asked for, prints their numbers, and returns 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description="What the service costs on top of its engine.")
    parser.add_argument("part", nargs="?", choices=("all", "pace", "rate"), default="all")
    parser.add_argument("--host", choices=("bentoml", "uvicorn"), default="bentoml")
    parser.add_argument("--engine", type=Path, help="an engine directory, for the rate")
    parser.add_argument("--tokens", type=int, default=PACED_TOKENS, help="of each paced stream")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    good = True
    if chosen.part in ("all", "pace"):
        pace = run_pace(chosen.host, chosen.tokens)
        good &= show(f"64 streams, a step each 2 ms, {chosen.host}", pace)
        good &= pace["api_cpu_us_per_token"] <= 25 and pace["pace_held"] >= 0.98
    if chosen.part == "rate" or (chosen.part == "all" and chosen.engine is not None):
        if chosen.engine is None:
            parser.error("the rate needs --engine")
        rate = run_rate(chosen.host, chosen.engine.resolve(), chosen.rounds)
        good &= show(f"16 streams over HTTP and in process, {chosen.host}", rate)
        good &= rate["ratio"] >= 0.9
    print("goals met" if good else "goals missed")
    return 0 if good else 1


def show(title: str, numbers: dict[str, float]) -> bool:
    """Prints a table and returns True."""
    print(f"\n{title} ({time.strftime('%Y-%m-%d %H:%M')})")
    for name, number in numbers.items():
        print(f"  {name:26} {number:12.3f}")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
