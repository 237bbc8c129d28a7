"""Rounds of generation and calls, on an engine and an executor that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from serving.boundary.sampling import Sampling
from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError
from serving.events import (
    BuiltInCallEnded,
    BuiltInCallRunning,
    BuiltInCallStart,
    Content,
    Event,
    Finished,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from serving.generation.job import Job
from serving.harmony.built_in import continuation
from serving.settings import Deadlines, Tools
from serving.tools.executors import Executors, Outcome, Toolbox
from serving.tools.rounds import LEFT_OUT, REFUSAL, ROUND_ROUTE, Allowance, Rounds
from tests.serving.harmony.oracle import tokenize
from tests.serving.protocols.edge.server import until
from tests.serving.scene import Scene, Stage, job

BUILT_IN = frozenset({"python", "browser.search"})


class Played(Executors):
    """Executors that say what the test says, after what it waits for."""

    def __init__(self, *outcomes: Outcome, seconds: float = 0.0) -> None:
        super().__init__(Toolbox(Tools(), lambda: 0.0, lambda *_: None), ())
        self.outcomes = list(outcomes)
        self.calls: list[tuple[str, str]] = []
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.closed = 0
        self.clock_seconds = 0.0
        self._seconds = seconds

    async def call(self, recipient: str, text: str, most_seconds: float) -> Outcome:
        self.calls.append((recipient, text))
        self.asked.set()
        await self.go.wait()
        self.clock_seconds += self._seconds
        return self.outcomes.pop(0) if self.outcomes else Outcome("out", "completed")

    def close(self) -> None:
        self.closed += 1


class Show:
    """Rounds that run in a task."""

    def __init__(self, scene: Scene, executors: Played, **fields: Any) -> None:
        allowance = {"calls": 8, "context_tokens": 4096, "seconds": 60.0}
        allowance |= {name: fields.pop(name) for name in list(fields) if name in allowance}
        first = msgspec.structs.replace(job(**fields), built_in=BUILT_IN)
        rounds = Rounds(
            first,
            executors,
            Allowance(**allowance),  # type: ignore[arg-type]
            scene.vocabulary,
            self.run,
            lambda: executors.clock_seconds,
            scene.pipeline.drain,
        )
        self.scene = scene
        self.jobs: list[Job] = []
        self.starts: list[float] = []
        self.events: list[Event] = []
        self.task = asyncio.create_task(self._collect(rounds))

    def run(self, job: Job, started: float) -> Any:
        self.jobs.append(job)
        self.starts.append(started)
        return self.scene.pipeline.run(job)

    async def _collect(self, rounds: Rounds) -> None:
        async for batch in rounds.events(0.0):
            assert batch
            self.events += [event for _, event in batch]

    async def generate(self, markup: str, number: int, **fields: Any) -> list[int]:
        """Lets the engine play the round of this number; returns its tokens."""
        tokens = tokenize(markup, self.scene.vocabulary)
        stream = await self.scene.engine.next_stream(number)
        stream.give(tokens, finish=fields.pop("finish", "stop"), **fields)
        return tokens


CALL = "<|channel|>analysis to=python code<|message|>1+1<|call|>"
SEARCH = ' to=browser.search<|channel|>analysis code<|message|>{"query":"x"}<|call|>'
FINAL = "<|channel|>final<|message|>Two.<|return|>"


async def test_calls_and_an_answer_are_the_events_of_one_job(stage: Stage) -> None:
    scene, executors = stage(), Played(Outcome("2", "completed"), Outcome("gone", "failed"))
    show = Show(scene, executors)
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    first = await show.generate(thought + CALL, 0)
    second = await show.generate(SEARCH, 1, cached_tokens=3)
    await show.generate(FINAL, 2, cached_tokens=5)
    await show.task
    assert show.events[:-1] == [
        Reasoning("Hm."),
        BuiltInCallStart(0, "python"),
        ToolCallArguments(0, "1+1"),
        BuiltInCallRunning(),
        BuiltInCallEnded("2", "completed"),
        BuiltInCallStart(0, "browser.search"),
        ToolCallArguments(0, '{"query":"x"}'),
        BuiltInCallRunning(),
        BuiltInCallEnded("gone", "failed"),
        Content("Two."),
    ]
    assert executors.calls == [("python", "1+1"), ("browser.search", '{"query":"x"}')]
    assert executors.closed == 1

    prompts = [job.prompt for job in show.jobs]
    called = [event for event in show.events if isinstance(event, BuiltInCallStart)]
    vocabulary = scene.vocabulary
    assert prompts[1] == prompts[0] + continuation(first, called[0], "2", vocabulary)
    assert prompts[2] == prompts[1] + continuation(second, called[1], "gone", vocabulary)

    finished = show.events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    generated = sum(record.completion_tokens for record in scene.records)
    assert finished.usage == Usage(sum(map(len, prompts)), generated, 2, 8)
    assert [record.route for record in scene.records] == [
        "chat.completions",
        ROUND_ROUTE,
        ROUND_ROUTE,
    ]
    assert {record.id for record in scene.records} == {"request-1"}


async def test_an_answer_without_a_call_is_one_round(stage: Stage) -> None:
    show = Show(stage(), executors := Played())
    await show.generate(FINAL, 0)
    await show.task
    assert [type(event) for event in show.events] == [Content, Finished]
    assert (len(show.jobs), executors.calls, executors.closed) == (1, [], 1)


async def test_no_ticket_is_held_while_a_tool_runs(stage: Stage) -> None:
    scene, executors = stage(capacity=1), Played()
    executors.go.clear()
    show = Show(scene, executors)
    await show.generate(CALL, 0)
    await executors.asked.wait()
    other = scene.start(job())
    (await scene.engine.next_stream(1)).give(scene.answer("Hi"), finish="stop")
    await other
    executors.go.set()
    await show.generate(FINAL, 2)
    await show.task


async def test_a_round_goes_before_those_who_wait_and_is_not_refused(stage: Stage) -> None:
    scene, executors = stage(Deadlines(queue_seconds=0.05), capacity=1), Played()
    executors.go.clear()
    show = Show(scene, executors)
    await show.generate(CALL, 0)
    await executors.asked.wait()
    others = [scene.start(job()) for _ in range(11)]
    running = await scene.engine.next_stream(1)
    await until(lambda: scene.admission.waiting == 10)
    with pytest.raises(ServingError, match="as many requests"):
        await scene.start(job())
    executors.go.set()
    await until(lambda: scene.admission.waiting_in(Lane.P0) == 1)
    # Those who wait have had their time by now; the round has that of its response.
    await asyncio.gather(*others[1:], return_exceptions=True)
    running.give(scene.answer("Hi"), finish="stop")
    await show.generate(FINAL, 2)
    await show.task
    await others[0]
    assert all(isinstance(other.exception(), ServingError) for other in others[1:])


@pytest.mark.parametrize(
    ("markup", "finish", "kinds"),
    [
        # Something follows the call: the model has gone on without it.
        (CALL + "<|start|>assistant" + FINAL, "stop", [BuiltInCallStart, Content]),
        # The call is not whole.
        (CALL.removesuffix("<|call|>"), "length", [BuiltInCallStart]),
        # A function is the client's to run.
        (
            CALL + "<|start|>assistant to=functions.f<|channel|>commentary<|message|>{}<|call|>",
            "stop",
            [BuiltInCallStart, ToolCallStart],
        ),
    ],
)
async def test_a_call_that_a_round_does_not_end_in_is_not_made(
    stage: Stage, markup: str, finish: str, kinds: list[type[Event]]
) -> None:
    show = Show(stage(), executors := Played(), tools=frozenset({"f"}))
    await show.generate(markup, 0, finish=finish)
    await show.task
    assert not executors.calls
    shown = [type(event) for event in show.events if not isinstance(event, ToolCallArguments)]
    assert shown == [*kinds, Finished]


async def test_calls_beyond_the_allowance_are_refused_and_then_end_the_response(
    stage: Stage,
) -> None:
    show = Show(stage(), executors := Played(), calls=1)
    for number in range(4):
        await show.generate(CALL, number)
    await show.task
    assert len(executors.calls) == 1
    ended = [event for event in show.events if isinstance(event, BuiltInCallEnded)]
    assert [event.outcome for event in ended] == ["completed", "refused", "refused", "refused"]
    assert sum(isinstance(event, BuiltInCallRunning) for event in show.events) == 1
    text = show.scene.vocabulary.decode(show.jobs[2].prompt)
    assert text.endswith(f"<|message|>{REFUSAL}<|end|><|start|>assistant")
    assert isinstance(last := show.events[-1], Finished)
    assert last.reason == "length"


async def test_the_rounds_share_what_may_be_generated(stage: Stage) -> None:
    scene = stage()
    tokens = len(tokenize(CALL, scene.vocabulary))
    show = Show(scene, Played(), sampling=Sampling(max_tokens=tokens + 5))
    await show.generate(CALL, 0)
    await scene.engine.next_stream(1)
    assert show.jobs[1].sampling.max_tokens == 5
    await show.generate(FINAL, 1)
    await show.task

    scene = stage()
    show = Show(scene, Played(), sampling=Sampling(max_tokens=tokens))
    await show.generate(CALL, 0)
    await show.task
    assert isinstance(last := show.events[-1], Finished)
    assert (last.reason, len(show.jobs)) == ("length", 1)


async def test_an_output_leaves_the_model_room_to_answer(stage: Stage) -> None:
    output = " word" * 5000
    show = Show(stage(), Played(Outcome(output, "completed")), sampling=Sampling(max_tokens=9999))
    await show.generate(CALL, 0)
    await show.generate(FINAL, 1)
    await show.task
    second = show.jobs[1]
    assert 256 <= second.sampling.max_tokens < 300
    assert len(second.prompt) + second.sampling.max_tokens == 4096
    text = show.scene.vocabulary.decode(second.prompt)
    assert text.endswith(f"{LEFT_OUT}<|end|><|start|>assistant")
    # What the client is shown is not cut for the context.
    assert BuiltInCallEnded(output, "completed") in show.events


async def test_a_context_without_room_for_an_answer_ends_the_response(stage: Stage) -> None:
    show = Show(stage(), Played(Outcome("long " * 50, "completed")), context_tokens=290)
    await show.generate(CALL, 0)
    await show.task
    assert isinstance(last := show.events[-1], Finished)
    assert (last.reason, len(show.jobs)) == ("length", 1)


async def test_all_rounds_have_one_deadline(stage: Stage) -> None:
    show = Show(stage(), Played(seconds=25.0), seconds=60.0)
    await show.generate(CALL, 0)
    await show.generate(CALL, 1)
    await show.generate(CALL, 2)
    with pytest.raises(ServingError) as late:
        await show.task
    assert late.value.kind is ErrorKind.DEADLINE
    assert show.starts == [0.0, 25.0, 50.0]
    assert [job.deadline_seconds for job in show.jobs] == [None, 35.0, 10.0]


async def test_a_failure_of_a_later_round_is_that_of_the_response(stage: Stage) -> None:
    show = Show(stage(), executors := Played())
    await show.generate(CALL, 0)
    (await show.scene.engine.next_stream(1)).fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "x"))
    with pytest.raises(ServingError, match="x"):
        await show.task
    assert executors.closed == 1


@pytest.mark.parametrize("phase", ["generation", "call"])
async def test_a_client_that_leaves_ends_whatever_runs(stage: Stage, phase: str) -> None:
    executors = Played()
    executors.go.clear()
    show = Show(stage(), executors)
    stream = await show.scene.engine.next_stream(0)
    if phase == "call":
        await show.generate(CALL, 0)
        await executors.asked.wait()
    show.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await show.task
    assert stream.closed.is_set()
    assert executors.closed == 1
    assert show.scene.records[0].outcome == ("ok" if phase == "call" else "aborted")
