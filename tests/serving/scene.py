"""A pipeline on an engine that the test plays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving.boundary.lifecycle import EngineState
from serving.boundary.sampling import Sampling
from serving.control.admission import Admission
from serving.control.callers import ANONYMOUS
from serving.control.lanes import Lane
from serving.events import ChoiceEvent, Content, Event, Finished, Reasoning, ToolCallArguments
from serving.generation.job import Job
from serving.generation.pipeline import Pipeline
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Deadlines
from serving.telemetry.record import Record
from tests.serving.fake_engine import FakeEngine

PROMPT = [1, 2, 3]


class Scene:
    """A pipeline, its engine, and the records that it wrote."""

    def __init__(self, vocabulary: Vocabulary, deadlines: Deadlines, capacity: int) -> None:
        self.vocabulary = vocabulary
        self.engine = FakeEngine()
        self.engine.state = EngineState.READY
        self.admission = Admission(capacity, 10)
        self.records: list[Record] = []
        self.pipeline = Pipeline(
            self.engine, vocabulary, self.admission, deadlines, self, time.monotonic
        )

    def record(self, record: Record) -> None:
        self.records.append(record)

    def start(self, job: Job) -> asyncio.Task[list[ChoiceEvent]]:
        """Runs the job in a task that returns all of its events."""
        return asyncio.create_task(collect(self.pipeline, job))

    def answer(self, text: str, reasoning: str | None = None) -> list[int]:
        """Returns the tokens of an answer, `<|return|>` last."""
        return render_completion(Assistant(reasoning=reasoning, content=text), self.vocabulary)

    def header(self) -> list[int]:
        """Returns the tokens that open a final answer."""
        return self.answer("x")[:-2]


async def collect(pipeline: Pipeline, job: Job) -> list[ChoiceEvent]:
    events: list[ChoiceEvent] = []
    async for batch in pipeline.run(job):
        assert batch
        events += batch
    return events


Stage = Callable[..., Scene]


def job(
    *,
    choices: int = 1,
    stop: tuple[str, ...] = (),
    sampling: Sampling | None = None,
    tools: frozenset[str] = frozenset(),
    lane: Lane = Lane.P1,
    harmony: bool = True,
    deadline_seconds: float | None = None,
) -> Job:
    return Job(
        id="request-1",
        caller=ANONYMOUS,
        prompt=PROMPT,
        sampling=sampling or Sampling(max_tokens=100),
        choices=choices,
        stop=stop,
        tools=tools,
        lane=lane,
        harmony=harmony,
        deadline_seconds=deadline_seconds,
    )


def texts(events: list[ChoiceEvent], kind: type[Event], choice: int = 0) -> str:
    return "".join(
        event.text
        for index, event in events
        if index == choice
        and type(event) is kind
        and isinstance(event, Content | Reasoning | ToolCallArguments)
    )


def finished(events: list[ChoiceEvent], choice: int = 0) -> Finished:
    last = [event for index, event in events if index == choice][-1]
    assert isinstance(last, Finished)
    return last
