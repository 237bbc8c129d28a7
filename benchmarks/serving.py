"""What the service costs on top of its engine: CPU a token, pace, and served against own rate.

    python -m benchmarks.serving                        both parts, through `bentoml serve`
    python -m benchmarks.serving --host uvicorn         the app without BentoML
    python -m benchmarks.serving pace                   64 streams, a step each 2 ms, replayed
    python -m benchmarks.serving rate [--engine DIR]    16 streams over HTTP and in process

The rate is that of a random checkpoint on the embedded runtime unless an engine is named.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from benchmarks import checkpoints, random_engine, report
from benchmarks.api_process import ApiProcess, Host, serving
from benchmarks.http_load import StreamResult, chat_request, load
from benchmarks.worker import Worker
from serving.boundary.engine import RANKS_PATH, Limits
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script, Tokens
from serving.harmony.conversation import Conversation, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import CHANNEL, MESSAGE, Vocabulary
from serving.hosting.machine import processors

MODEL = "openai/gpt-oss-120b"
PROMPT = "Write about the weather."
TEXT = "Tokens of an answer, as they come from a model that writes about the weather in Lisbon. "

STREAMS = 64
PACE_SECONDS = 0.002
PACED_TOKENS = 3000
PACE_HELD = 0.98
CPU_US = 25.0

RATE_STREAMS = 16
RATE_TOKENS = 256
RATE_RATIO = 0.9
PAIRS = 5
"""In a round: one lasts four seconds."""
RATE_LIMITS = Limits(max_batch_size=RATE_STREAMS, max_num_tokens=512, max_seq_len=1024)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """One paced run. CPU times are of whole processes, user and system, microseconds a token."""

    tokens: int
    seconds: float
    api_us: float
    engine_us: float
    chunks: int
    first_ms: float
    """Median time from a request to its first event, with all streams beginning at once."""

    @property
    def held(self) -> float:
        """The rate as a share of the pace."""
        return self.tokens / self.seconds * PACE_SECONDS / STREAMS


def write_paced_engine(directory: Path) -> None:
    """Makes `directory` a replay engine that answers for ever, one token a stream each step."""
    vocabulary = Vocabulary.load(random_engine.RANKS)
    header = (CHANNEL, *vocabulary.encode("final"), MESSAGE)
    steps = (Tokens(ids=header), Repeat(ids=tuple(vocabulary.encode(TEXT))))
    script = Script(scenarios=(Scenario(steps=steps),), pace_seconds=PACE_SECONDS)
    replay_engine.write(directory, script, ranks=random_engine.RANKS)


def request(port: int, tokens: int) -> bytes:
    """Returns a streamed chat request that gives exactly `tokens` tokens."""
    body = {
        "model": MODEL,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    return chat_request(port, body)


def check(results: list[StreamResult], tokens: int) -> None:
    """Raises RuntimeError unless every stream ended properly and counted `tokens` tokens."""
    for result in results:
        counted = b'"completion_tokens":%d,' % tokens in result.tail
        if b" 200 " not in result.status or b"[DONE]" not in result.tail or not counted:
            raise RuntimeError(f"a stream failed: {result.status!r} ... {result.tail!r}")


def measure_pace(service: ApiProcess, streams: int, tokens: int) -> Pace:
    """Returns what paced streams of `tokens` tokens cost and whether they kept their time."""
    warm = asyncio.run(load(service.port, [request(service.port, 50)] * streams))
    check(warm, 50)
    before = service.cpu_seconds()
    results = asyncio.run(load(service.port, [request(service.port, tokens)] * streams))
    after = service.cpu_seconds()
    check(results, tokens)
    total = tokens * streams
    return Pace(
        tokens=total,
        seconds=max(result.last for result in results) - min(result.first for result in results),
        api_us=(after[0] - before[0]) / total * 1e6,
        engine_us=(after[1] - before[1]) / total * 1e6,
        # The role, the finish reason, the usage and [DONE] hold no tokens.
        chunks=sum(result.events - 4 for result in results),
        first_ms=median(result.first - result.sent for result in results) * 1e3,
    )


def measure_served(service: ApiProcess, streams: int, tokens: int) -> tuple[float, float]:
    """Returns the rate of equal requests over HTTP, and the API's part of the CPU time.

    The rate is in tokens a second from the first request to the last event. The part is of the
    time of API and engine together; other work on the machine does not change it much.
    """
    check(asyncio.run(load(service.port, [request(service.port, 8)] * streams)), 8)
    before = service.cpu_seconds()
    results = asyncio.run(load(service.port, [request(service.port, tokens)] * streams))
    api, engine = (now - then for now, then in zip(service.cpu_seconds(), before, strict=True))
    check(results, tokens)
    seconds = max(result.last for result in results) - min(result.sent for result in results)
    return streams * tokens / seconds, api / (api + engine)


def measure_own(runtime: Worker, prompt: list[int], streams: int, tokens: int) -> float:
    """Returns the tokens a second of the same requests to the runtime alone, without a server."""
    timeline = runtime.generate([prompt] * streams, tokens)
    if [len(stream) for stream in timeline.tokens] != [tokens] * streams:
        raise RuntimeError(f"a stream has not {tokens} tokens")
    return streams * tokens / max(times[-1] for times in timeline.seconds)


def run_pace(host: Host, tokens: int, rounds: int) -> report.Result:
    """Runs the first part."""
    machine = report.machine()
    with tempfile.TemporaryDirectory() as directory:
        engine = Path(directory) / "engine"
        write_paced_engine(engine)
        with serving(engine, host) as service:
            runs = [measure_pace(service, STREAMS, tokens) for _ in range(rounds)]
    held = median(run.held for run in runs)
    api_us = median(run.api_us for run in runs)
    row = (
        f"{held:.3f}",
        f"{api_us:.1f}",
        f"{median(run.api_us * run.tokens / run.chunks for run in runs):.1f}",
        f"{median(run.engine_us for run in runs):.1f}",
        f"{median(run.chunks / run.tokens for run in runs):.2f}",
        f"{median(run.first_ms for run in runs):.1f}",
    )
    return report.Result(
        name=f"serving_pace_{host}",
        title=f"Served streams: {STREAMS} at a step every {PACE_SECONDS * 1000:g} ms, {host}",
        columns=(
            "",
            "pace held",
            "API us/token",
            "API us/chunk",
            "engine us/token",
            "chunks/token",
            "first ms",
        ),
        rows=(("replay runtime", *row),),
        goals=(
            report.Goal(what="share of the pace that is held", value=held, wanted=PACE_HELD),
            report.Goal(
                what="CPU of the API process, us/token",
                value=api_us,
                wanted=CPU_US,
                at_least=False,
            ),
        ),
        notes=(
            f"medians of {rounds} runs of {tokens} tokens a stream",
            "tokens of one stream share a chunk where the API process was woken late",
        ),
        raw={"held": [run.held for run in runs], "api_us": [run.api_us for run in runs]},
        machine=machine,
        measured=report.now(),
    )


def run_rate(host: Host, engine: Path, rounds: int) -> report.Result:
    """Runs the second part: the two ways take turns, and each pair is compared by itself.

    Both are loaded all the time, so that the turns are short and near each other: what else the
    machine does changes within seconds.
    """
    machine = report.machine()
    own: list[float] = []
    served: list[float] = []
    parts: list[float] = []
    conversation = Conversation(system=System(), turns=(User(text=PROMPT),))
    prompt = render(conversation, Vocabulary.load(engine / RANKS_PATH))
    threads = processors()
    with Worker("engine", engine, threads) as runtime, serving(engine, host) as service:
        measure_own(runtime, prompt, RATE_STREAMS, 8)
        for _ in range(rounds):
            own.append(measure_own(runtime, prompt, RATE_STREAMS, RATE_TOKENS))
            rate, part = measure_served(service, RATE_STREAMS, RATE_TOKENS)
            served.append(rate)
            parts.append(part)
    ratio = median(there / here for there, here in zip(served, own, strict=True))
    return report.Result(
        name=f"serving_rate_{host}",
        title=f"Served rate: {RATE_STREAMS} streams of {RATE_TOKENS} tokens, {host}",
        columns=("", "tokens/s in process", "tokens/s over HTTP", "ratio", "API part of CPU"),
        rows=(
            (
                "embedded",
                f"{median(own):.0f}",
                f"{median(served):.0f}",
                f"{ratio:.2f}",
                f"{median(parts):.1%}",
            ),
        ),
        goals=(
            report.Goal(what="served rate over the runtime's own", value=ratio, wanted=RATE_RATIO),
        ),
        notes=(
            f"{rounds} pairs, taken in turns; spread {report.spread(own):.0%} in process, "
            f"{report.spread(served):.0%} over HTTP",
        ),
        raw={"own": own, "served": served, "api_part": parts},
        machine=machine,
        measured=report.now(),
    )


def run_random_rate(host: Host, rounds: int) -> report.Result:
    """Runs the second part on a random checkpoint."""
    shape = checkpoints.mxfp4(checkpoints.SMALL)
    checkpoint = checkpoints.ensure(shape, report.CHECKPOINTS)
    with tempfile.TemporaryDirectory(dir=report.STATE) as directory:
        engine = Path(directory).absolute() / "engine"
        random_engine.write(engine, shape, checkpoint, RATE_LIMITS)
        return run_rate(host, engine, rounds)


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts asked for, keeps their results, and returns 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description="What the service costs on top of its engine.")
    parser.add_argument("part", nargs="?", choices=("all", "pace", "rate"), default="all")
    parser.add_argument("--host", choices=("bentoml", "uvicorn"), default="bentoml")
    parser.add_argument("--engine", type=Path, help="an engine directory, for the rate")
    parser.add_argument("--tokens", type=int, default=PACED_TOKENS, help="of each paced stream")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    results = []
    if chosen.part in ("all", "pace"):
        results.append(run_pace(chosen.host, chosen.tokens, chosen.rounds))
    if chosen.part in ("all", "rate") and chosen.engine is None:
        results.append(run_random_rate(chosen.host, PAIRS * chosen.rounds))
    elif chosen.part in ("all", "rate"):
        results.append(run_rate(chosen.host, chosen.engine.absolute(), PAIRS * chosen.rounds))
    for result in results:
        report.publish(result)
    return 0 if all(goal.met for result in results for goal in result.goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
