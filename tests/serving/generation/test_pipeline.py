"""A job from ticket to record."""

from __future__ import annotations

import asyncio

import pytest

from serving.boundary.lifecycle import EngineState
from serving.boundary.sampling import Sampling
from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError
from serving.events import (
    Content,
    Reasoning,
)
from tests.serving.scene import Stage, finished, job, texts


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


@pytest.mark.parametrize(("lane", "priority"), [(Lane.P0, 1.0), (Lane.P1, 0.5), (Lane.P2, 0.0)])
async def test_the_lane_is_the_engine_s_priority(stage: Stage, lane: Lane, priority: float) -> None:
    scene = stage()
    running = scene.start(job(lane=lane))
    stream = await scene.engine.next_stream()
    assert stream.priority == priority
    running.cancel()
