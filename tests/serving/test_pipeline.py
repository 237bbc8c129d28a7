"""A job from ticket to record, on an engine that the test plays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serving.control.admission import Admission
from serving.errors import ErrorKind, ServingError
from serving.events import (
    ChoiceEvent,
    Content,
    Event,
    Finished,
    Reasoning,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
)
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import RETURN, Vocabulary
from serving.job import Job, Lane, Sampling
from serving.pipeline import Pipeline
from serving.runtime.lifecycle import EngineState
from serving.runtime.messages import Fault, Logprob, Output
from serving.settings import Deadlines
from serving.telemetry.record import Record
from tests.serving.fake_engine import FakeEngine, FakeStream

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


@pytest.fixture
def stage(vocabulary: Vocabulary) -> Stage:
    """Returns a function that makes a scene."""

    def make(deadlines: Deadlines | None = None, capacity: int = 8) -> Scene:
        return Scene(vocabulary, deadlines or Deadlines(), capacity)

    return make


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


async def test_an_answer_comes_out_as_events_and_one_record(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    tokens = scene.answer("Hello, wörld 😀!", reasoning="Hm.")
    for token in tokens[:-1]:
        stream.give([token], cached_tokens=2)
        await asyncio.sleep(0)
    stream.give(tokens[-1:], finish="stop")
    events = await running
    assert texts(events, Reasoning) == "Hm."
    assert texts(events, Content) == "Hello, wörld 😀!"
    end = finished(events)
    assert end.reason == "stop"
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, len(tokens))
    assert (end.usage.cached_tokens, end.usage.reasoning_tokens) == (2, 2)
    (record,) = scene.records
    assert (record.outcome, record.code, record.finish_reasons) == ("ok", "", ("stop",))
    assert record.completion_tokens == len(tokens)
    assert record.phase == "decode"
    assert scene.admission.running == 0
    assert stream.closed.is_set()


async def test_tokens_that_came_together_are_one_event(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    for token in scene.answer("one two three")[:-1]:
        stream.give([token])
    stream.give([RETURN], finish="stop")
    assert (await running)[0] == (0, Content("one two three"))


async def test_a_tool_call_ends_the_choice_with_its_own_reason(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job(tools=frozenset({"get_weather"})))
    stream = await scene.engine.next_stream()
    call = ToolCall(name="get_weather", arguments='{"city":"Paris"}')
    stream.give(render_completion(Assistant(calls=(call,)), scene.vocabulary), finish="stop")
    events = await running
    assert (0, ToolCallStart(0, "get_weather")) in events
    assert texts(events, ToolCallArguments) == '{"city":"Paris"}'
    assert finished(events).reason == "tool_calls"


async def test_a_choice_that_reaches_its_limit_says_length(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give(scene.answer("cut off")[:-1], finish="length")
    assert finished(await running).reason == "length"


async def test_choices_share_a_stream_and_differ_in_their_seeds(stage: Stage) -> None:
    scene = stage()
    sampling = Sampling(max_tokens=100, seed=2**63 - 1)
    running = scene.start(job(choices=2, sampling=sampling))
    stream = await scene.engine.next_stream()
    assert [one.seed for one in stream.samplings] == [2**63 - 1, -(2**63)]
    assert scene.admission.running == 2
    stream.give(scene.answer("b"), choice=1, finish="stop")
    stream.give(scene.answer("a"), choice=0, finish="stop")
    events = await running
    assert (texts(events, Content, 0), texts(events, Content, 1)) == ("a", "b")


async def test_a_stop_string_over_token_borders_is_cut_and_aborts_the_sequence(
    stage: Stage,
) -> None:
    scene = stage()
    running = scene.start(job(stop=("wor",)))
    stream = await scene.engine.next_stream()
    stream.give(scene.header())
    for piece in ("Hello w", "orld and more"):
        stream.give(scene.vocabulary.encode(piece))
        await asyncio.sleep(0)
    events = await running
    assert texts(events, Content) == "Hello "
    assert finished(events).reason == "stop"
    assert stream.closed.is_set()


async def test_a_stop_string_ends_only_its_own_choice(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job(choices=2, stop=("B",)))
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("aB")], choice=0)
    await asyncio.sleep(0.01)
    assert stream.cancelled == [0]
    stream.give(scene.vocabulary.encode("late"), choice=0)
    stream.give(scene.answer("whole"), choice=1, finish="stop")
    events = await running
    assert (texts(events, Content, 0), texts(events, Content, 1)) == ("a", "whole")


async def test_a_stop_string_is_not_looked_for_in_reasoning(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job(stop=("Hm",)))
    stream = await scene.engine.next_stream()
    stream.give(scene.answer("Good.", reasoning="Hm, well."), finish="stop")
    assert texts(await running, Reasoning) == "Hm, well."


async def test_logprobs_cover_the_content_tokens_and_no_others(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job(sampling=Sampling(max_tokens=100, logprobs=1)))
    stream = await scene.engine.next_stream()
    tokens = scene.answer("I say 🦩 so", reasoning="Hm.")
    entries = [Logprob(-float(index), [(token, -0.5)]) for index, token in enumerate(tokens)]
    stream.give(tokens, finish="stop", logprobs=entries)
    events = await running
    covered: list[TokenLogprob] = []
    for _, event in events:
        if isinstance(event, Content):
            covered += event.logprobs or ()
    assert [entry.token for entry in covered] == scene.vocabulary.encode("I say 🦩 so")
    assert covered[0].top == ((covered[0].token, -0.5),)


async def test_logprobs_stay_with_their_text_when_a_stop_string_holds_it_back(
    stage: Stage,
) -> None:
    scene = stage()
    sampling = Sampling(max_tokens=100, logprobs=0)
    running = scene.start(job(sampling=sampling, stop=(" so it",)))
    stream = await scene.engine.next_stream()
    tokens = [*scene.header(), *scene.vocabulary.encode("I say so it ends")]
    stream.give(tokens, logprobs=[Logprob(-1.0)] * len(tokens))
    events = await running
    covered = [
        (event.text, [entry.token for entry in event.logprobs or ()])
        for _, event in events
        if isinstance(event, Content)
    ]
    assert [text for text, _ in covered] == ["I", " say"]
    assert [ids for _, ids in covered] == [
        scene.vocabulary.encode("I"),
        scene.vocabulary.encode(" say"),
    ]


async def test_plain_jobs_are_text_without_harmony(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job(harmony=False))
    stream = await scene.engine.next_stream()
    for token in scene.vocabulary.encode("plain 🦩 text"):
        stream.give([token])
        await asyncio.sleep(0)
    stream.give([], finish="stop")
    assert texts(await running, Content) == "plain 🦩 text"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("invalid", "no"), ErrorKind.INVALID_VALUE),
        (Fault("out_of_memory", "no"), ErrorKind.OUT_OF_MEMORY),
        (Fault("internal", "no"), ErrorKind.ENGINE_REQUEST),
        (None, ErrorKind.ENGINE_REQUEST),
    ],
)
async def test_a_fault_of_the_engine_becomes_an_error(
    stage: Stage, fault: Fault | None, kind: ErrorKind
) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.push(0, Output(1, [], "error", fault=fault))
    with pytest.raises(ServingError) as failed:
        await running
    assert failed.value.kind is kind
    (record,) = scene.records
    assert (record.outcome, record.code) == ("error", kind.value.code)
    assert scene.admission.running == 0


async def test_a_lost_engine_fails_the_job_and_frees_everything(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "gone"))
    with pytest.raises(ServingError):
        await running
    assert scene.admission.running == 0
    assert scene.records[0].code == "engine_unavailable"


async def test_without_an_engine_the_ticket_is_given_back(stage: Stage) -> None:
    scene = stage()
    scene.engine.state = EngineState.BACKOFF
    with pytest.raises(ServingError) as refused:
        await scene.start(job())
    assert refused.value.kind is ErrorKind.ENGINE_UNAVAILABLE
    assert scene.admission.running == 0
    assert len(scene.records) == 1


async def test_cancelling_while_waiting_for_the_first_token_aborts(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stream.closed.is_set()
    (record,) = scene.records
    assert (record.outcome, record.phase) == ("aborted", "prefill")
    assert scene.admission.running == 0


async def test_closing_the_generator_between_tokens_aborts(stage: Stage) -> None:
    scene = stage()
    events = scene.pipeline.run(job())
    first = asyncio.ensure_future(anext(events))
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    await first
    await events.aclose()
    assert stream.closed.is_set()
    assert (scene.records[0].outcome, scene.records[0].phase) == ("aborted", "decode")


async def test_cancelling_in_the_queue_never_reaches_the_engine(stage: Stage) -> None:
    scene = stage(capacity=1)
    first = scene.start(job())
    await scene.engine.next_stream()
    second = scene.start(job())
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert len(scene.engine.opened) == 1
    assert (scene.records[0].outcome, scene.records[0].phase) == ("aborted", "queue")
    first.cancel()


@pytest.mark.parametrize(
    "deadlines",
    [
        Deadlines(first_token_seconds=0.03),
        Deadlines(total_seconds=0.03),
        Deadlines(first_token_seconds=0.03, total_seconds=0.03),
    ],
)
async def test_no_first_token_in_time_is_a_deadline_and_aborts(
    stage: Stage, deadlines: Deadlines
) -> None:
    scene = stage(deadlines)
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    with pytest.raises(ServingError) as late:
        await running
    assert late.value.kind is ErrorKind.DEADLINE
    assert stream.closed.is_set()
    assert scene.records[0].code == "deadline_exceeded"


async def test_a_stall_after_tokens_is_a_deadline(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.03))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    with pytest.raises(ServingError) as late:
        await running
    assert late.value.kind is ErrorKind.DEADLINE


async def test_tokens_that_keep_coming_are_no_stall(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.1))
    running = scene.start(job())
    stream = await scene.engine.next_stream()
    stream.give(scene.header())
    for _ in range(10):
        await asyncio.sleep(0.03)
        stream.give(scene.vocabulary.encode("a"))
    stream.give([RETURN], finish="stop")
    assert texts(await running, Content) == "a" * 10


async def test_a_reader_that_is_slow_is_no_stall_of_the_engine(stage: Stage) -> None:
    scene = stage(Deadlines(stall_seconds=0.03))
    events = scene.pipeline.run(job())
    first = asyncio.ensure_future(anext(events))
    stream = await scene.engine.next_stream()
    stream.give([*scene.header(), *scene.vocabulary.encode("a")])
    await first
    await asyncio.sleep(0.1)
    stream.give([RETURN], finish="stop")
    assert finished(await anext(events)).reason == "stop"
    await events.aclose()


async def test_the_job_s_own_deadline_can_only_lower_the_limit(stage: Stage) -> None:
    scene = stage(Deadlines(total_seconds=60))
    with pytest.raises(ServingError) as late:
        await scene.start(job(deadline_seconds=0.03))
    assert late.value.kind is ErrorKind.DEADLINE
    scene = stage(Deadlines(total_seconds=0.03))
    with pytest.raises(ServingError):
        await scene.start(job(deadline_seconds=60))


async def test_a_cancellation_at_the_moment_of_a_deadline_stays_one(stage: Stage) -> None:
    scene = stage(Deadlines(first_token_seconds=0.02))
    running = scene.start(job())
    await scene.engine.next_stream()
    # Both timers fire in one turn of the loop: the deadline's cancel and ours meet in the task.
    asyncio.get_running_loop().call_later(0.02, running.cancel)
    time.sleep(0.03)  # noqa: ASYNC251 - holds the loop until both are due
    with pytest.raises((asyncio.CancelledError, ServingError)):
        await running
    assert len(scene.records) == 1
    assert scene.admission.running == 0


@pytest.mark.parametrize(("lane", "priority"), [(Lane.P0, 1.0), (Lane.P1, 0.5), (Lane.P2, 0.0)])
async def test_the_lane_is_the_engine_s_priority(stage: Stage, lane: Lane, priority: float) -> None:
    scene = stage()
    running = scene.start(job(lane=lane))
    stream = await scene.engine.next_stream()
    assert stream.priority == priority
    running.cancel()


async def test_malformed_harmony_is_counted(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream: FakeStream = await scene.engine.next_stream()
    stream.give([*scene.vocabulary.encode("no header at all"), RETURN], finish="stop")
    events = await running
    assert texts(events, Content) == "no header at all"
    assert sum(scene.records[0].recoveries.values()) > 0
