"""From the outputs of a sequence to events, with stop strings, log-probabilities and faults."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.boundary.messages import Fault, Logprob, Output
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError
from serving.events import (
    Content,
    Finished,
    Reasoning,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
)
from serving.generation.choice import Choice
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.parse import Parser
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import RETURN, Vocabulary
from tests.serving.fake_engine import FakeStream
from tests.serving.scene import Stage, finished, job, texts


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


async def test_malformed_harmony_is_counted(stage: Stage) -> None:
    scene = stage()
    running = scene.start(job())
    stream: FakeStream = await scene.engine.next_stream()
    stream.give([*scene.vocabulary.encode("no header at all"), RETURN], finish="stop")
    events = await running
    assert texts(events, Content) == "no header at all"
    assert sum(scene.records[0].recoveries.values()) > 0


PIECES = ("the ", "cat ", "sat 🦩", "🦩 on", " a m", "at.\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    words=st.lists(st.sampled_from(PIECES), max_size=8),
    stop=st.lists(st.sampled_from(["cat", "at s", "🦩🦩", "on a", ".\nthe", "m"]), max_size=3),
    cuts=st.sets(st.integers(1, 60), max_size=12),
    logprobs=st.booleans(),
)
def test_how_tokens_arrive_makes_no_difference(
    vocabulary: Vocabulary, words: list[str], stop: list[str], cuts: set[int], logprobs: bool
) -> None:
    tokens = render_completion(
        Assistant(reasoning="Hm.", content="so " + "".join(words)), vocabulary
    )
    entries = [Logprob(-float(index)) for index in range(len(tokens))]

    def feed(borders: list[int]) -> tuple[str, list[TokenLogprob], Finished]:
        choice = Choice(Parser(vocabulary), [0], stop, logprobs=logprobs)
        content = ""
        covered: list[TokenLogprob] = []
        for start, end in pairwise([0, *borders, len(tokens)]):
            output = Output(1, tokens[start:end], "stop" if end == len(tokens) else "")
            if logprobs:
                output = Output(1, output.tokens, output.finish, 0, entries[start:end])
            for event in choice.feed(output):
                if isinstance(event, Content):
                    content += event.text
                    covered += event.logprobs or ()
                elif isinstance(event, Finished):
                    return content, covered, event
        raise AssertionError("the choice has not finished")

    whole_content, whole_covered, whole_end = feed([])
    content, covered, end = feed(sorted(cut for cut in cuts if cut < len(tokens)))
    assert (content, end.reason) == (whole_content, whole_end.reason)
    assert covered == whole_covered
    assert not any(one in content for one in stop)
