"""The CPU time from a request's bytes to its job, for a conversation of 4k tokens.

    python -m benchmarks.request

`cold`: every message is new. `next turn`: a question and its answer are added to a conversation
that the service has seen, as a chat goes on; what came before is not encoded again. Presenting is
that of an answer of 200 tokens, a chunk each. Times are CPU times of the thread that works.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.serving import MODEL, write_paced_engine
from serving.app import create_app
from serving.boundary.lifecycle import EngineState, Transition
from serving.boundary.supervisor import Supervisor
from serving.control.callers import ANONYMOUS
from serving.events import Content
from serving.fleet.service import Supervised
from serving.generation.backend import Backend
from serving.generation.prepare import prepare as make_job
from serving.protocols.chat.facts import ChatFacts
from serving.protocols.chat.request import generation_request
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.chat.stream import ChatStream
from serving.protocols.edge.body import decode
from serving.protocols.edge.generation import RequestInfo
from serving.settings import Settings

MESSAGES = 31
WORDS = 100
ANSWER_TOKENS = 200
ROUNDS = 31
WANTED_MS = 2.0
INFO = RequestInfo("1", ANONYMOUS, None)

Messages = list[dict[str, Any]]


def conversation(source: random.Random, messages: int) -> Messages:
    """Returns messages of plain words, the user's first."""
    words = (report.__doc__ or "").split()
    return [
        {
            "role": ("user", "assistant")[number % 2],
            "content": " ".join(source.choice(words) for _ in range(WORDS)),
        }
        for number in range(messages)
    ]


def prepare(messages: Messages, backend: Backend, settings: Settings) -> tuple[float, float, int]:
    """Returns the milliseconds of reading the body and of making the job, and its tokens."""
    body = json.dumps({"model": MODEL, "messages": messages, "stream": True}).encode()
    began = time.thread_time()
    request = decode(body, ChatRequest, settings.limits)
    read = time.thread_time()
    job = make_job(generation_request(request, INFO), backend, settings)
    made = time.thread_time()
    return (read - began) * 1e3, (made - read) * 1e3, len(job.prompt)


def present(backend: Backend) -> float:
    """Returns the milliseconds of presenting an answer."""
    facts = ChatFacts(
        id="chatcmpl-1",
        created=1,
        model=MODEL,
        fingerprint=backend.fingerprint,
        choices=1,
        service_tier=None,
        vocabulary=backend.vocabulary,
        make_call_id=str,
    )
    began = time.thread_time()
    stream = ChatStream(facts, include_usage=True)
    stream.begin()
    for _ in range(ANSWER_TOKENS):
        stream.encode([(0, Content(" token"))])
    stream.end()
    return (time.thread_time() - began) * 1e3


def run(backend: Backend, settings: Settings) -> report.Result:
    """Measures each part; the first round, which loads what is needed later too, does not count."""
    machine = report.machine()
    source = random.Random(0)
    cold = [prepare(conversation(source, MESSAGES), backend, settings) for _ in range(ROUNDS + 1)][
        1:
    ]
    messages = conversation(source, MESSAGES)
    prepare(messages, backend, settings)
    warm = []
    for _ in range(ROUNDS):
        messages = [*messages[2:], *conversation(source, 3)[1:]]
        warm.append(prepare(messages, backend, settings))
    presented = [present(backend) for _ in range(ROUNDS)]
    rows = [
        (
            name,
            f"{median(some[2] for some in parts):.0f}",
            *(f"{median(values):.2f}" for values in (_part(parts, 0), _part(parts, 1), presented)),
        )
        for name, parts in (("cold", cold), ("next turn", warm))
    ]
    total_ms = median(read + made for read, made, _ in cold) + median(presented)
    return report.Result(
        name="request",
        title="CPU time of a request, ms",
        columns=("", "tokens", "reading", "job", f"presenting {ANSWER_TOKENS} tokens"),
        rows=tuple(rows),
        goals=(
            report.Goal(
                what="cold request with its answer, ms",
                value=total_ms,
                wanted=WANTED_MS,
                at_least=False,
            ),
        ),
        notes=(f"medians of {ROUNDS}",),
        raw={
            "cold_ms": [read + made for read, made, _ in cold],
            "next_turn_ms": [read + made for read, made, _ in warm],
            "presented_ms": presented,
        },
        machine=machine,
        measured=report.now(),
    )


def _part(parts: list[tuple[float, float, int]], index: int) -> list[float]:
    return [part[index] for part in parts]


async def measure() -> report.Result:
    """Measures in this process, over the replay runtime."""
    with tempfile.TemporaryDirectory() as directory:
        engine = Path(directory) / "engine"
        write_paced_engine(engine)
        settings = Settings(engine=str(engine), log_level="warning")
        loaded, ready = asyncio.Event(), asyncio.Event()

        def launch(directory: Path, on_transition: Callable[[Transition], None]) -> Supervised:
            def tell(transition: Transition) -> None:
                on_transition(transition)
                if transition.state is EngineState.READY:
                    ready.set()

            return Supervisor(directory, on_transition=tell)

        app = create_app(settings, launch=launch, on_loaded=loaded.set)
        async with app.router.lifespan_context(app):
            await loaded.wait()
            await ready.wait()
            return run(app.state.service.backend(), settings)


def main() -> int:
    """Runs the benchmark, keeps its result, and returns 1 when the goal was missed."""
    result = asyncio.run(measure())
    report.publish(result)
    return 0 if all(goal.met for goal in result.goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
