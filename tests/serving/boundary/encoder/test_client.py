"""The encoder process as the API sees it: started, shared, lost, started again, ended."""

from __future__ import annotations

import asyncio
import os
import signal
from array import array
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from serving.boundary.encoder import client as module
from serving.boundary.encoder.client import Encoder
from serving.boundary.encoder.connection import EncoderConnection, Vectors
from serving.boundary.encoder.description import EncoderDescription
from serving.errors import ErrorKind, ServingError
from tests.serving.clock import Clock
from tests.serving.protocols.edge.server import until

Make = Callable[..., Encoder]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures() -> list[str]:
    """What the encoder said of processes that ended."""
    return []


@pytest.fixture
async def make(
    minilm: EncoderDescription, clock: Clock, failures: list[str]
) -> AsyncGenerator[Make]:
    """Returns a function that makes an encoder; its process is ended after the test."""
    made: list[Encoder] = []

    def begin(description: EncoderDescription = minilm, **changed: Any) -> Encoder:
        options = {"threads": 1, "batch_tokens": 512, "request_tokens": 20_000, "max_waiting": 9}
        encoder = Encoder(
            description, **{**options, **changed}, clock=clock, on_failure=failures.append
        )
        made.append(encoder)
        return encoder

    yield begin
    for encoder in made:
        await encoder.close()


def process_of(encoder: Encoder) -> psutil.Process:
    assert encoder.pid is not None
    return psutil.Process(encoder.pid)


async def refusal(encoder: Encoder, inputs: list[Any], dimensions: int = 384) -> ServingError:
    with pytest.raises(ServingError) as refused:
        await encoder.encode(inputs, dimensions=dimensions)
    return refused.value


def similarity(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(array("f", one), array("f", other), strict=True))


async def test_requests_of_every_kind_over_one_process(make: Make) -> None:
    encoder = make()
    assert encoder.pid is None
    texts = [f"text number {n} " + "and so on " * (n * 7 % 20) for n in range(40)]
    wholes = await asyncio.gather(
        encoder.encode([*texts], dimensions=384),
        encoder.encode(["text number 3 " + "and so on " * 1], dimensions=384),
        encoder.encode([[7592, 1010]], dimensions=384),
        encoder.encode(["Hello,"], dimensions=384),
        encoder.encode(["Hello,"], dimensions=8),
        encoder.encode(["word " * 400], dimensions=384, truncate_tokens=100_000),
        encoder.encode(["word " * 400], dimensions=384, truncate_tokens=10),
    )
    many, one, ids, hello, short, cut, cut_shorter = wholes
    assert [len(vector) for vector in many.vectors] == [4 * 384] * 40
    assert similarity(many.vectors[3], one.vectors[0]) > 0.9999
    assert max(similarity(many.vectors[3], other) for other in many.vectors[:3]) < 0.99
    assert (ids.tokens, hello.tokens) == (4, 4)
    assert similarity(ids.vectors[0], hello.vectors[0]) > 0.9999
    assert len(short.vectors[0]) == 4 * 8
    assert similarity(short.vectors[0], short.vectors[0]) == pytest.approx(1, abs=1e-5)
    assert (cut.tokens, cut_shorter.tokens) == (256, 10)
    too_long = await refusal(encoder, ["fine", "word " * 400])
    assert (too_long.kind, too_long.param) == (ErrorKind.CONTEXT_LENGTH, "input[1]")
    assert "402 tokens" in too_long.message
    assert "256" in too_long.message
    together = await refusal(encoder, ["word " * 200] * 100)
    assert (together.kind, together.param) == (ErrorKind.CONTEXT_LENGTH, "input")
    assert "20200 tokens" in together.message


async def test_a_process_that_dies_fails_what_runs_and_the_next_request_starts_another(
    make: Make, clock: Clock, failures: list[str]
) -> None:
    encoder = make()
    await encoder.encode(["warm"], dimensions=384)
    process = process_of(encoder)
    os.kill(process.pid, signal.SIGSTOP)
    running = [asyncio.create_task(refusal(encoder, ["x"])) for _ in range(3)]
    await asyncio.sleep(0)
    process.kill()
    for failed in await asyncio.gather(*running):
        assert failed.kind is ErrorKind.ENGINE_UNAVAILABLE
        assert failed.retry_after_seconds
    await until(lambda: bool(failures))
    (told,) = failures
    assert told.endswith("exit code -9")
    clock.seconds += 60
    await encoder.encode(["again"], dimensions=384)
    assert process_of(encoder).pid != process.pid
    assert not process.is_running()


async def test_a_silent_process_is_given_up(
    make: Make, failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make()
    await encoder.encode(["warm"], dimensions=384)
    process = process_of(encoder)
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr("serving.boundary.encoder.connection.SILENT_SECONDS", 0.2)
    assert (await refusal(encoder, ["x"])).kind is ErrorKind.ENGINE_UNAVAILABLE
    await until(lambda: bool(failures))
    assert "answered nothing" in failures[0]
    assert failures[0].endswith("exit code -9")
    await asyncio.to_thread(process.wait, 20)


async def test_an_encoder_that_cannot_be_loaded_says_why_and_is_not_tried_all_the_time(
    make: Make, minilm: EncoderDescription, tmp_path: Path, clock: Clock, failures: list[str]
) -> None:
    encoder = make(msgspec.structs.replace(minilm, directory=tmp_path))
    both = await asyncio.gather(refusal(encoder, ["x"]), refusal(encoder, ["y"]))
    assert {error.kind for error in both} == {ErrorKind.ENGINE_UNAVAILABLE}
    await until(lambda: bool(failures))
    assert "config.json" in failures[0]
    await refusal(encoder, ["x"])
    clock.seconds += 60
    await refusal(encoder, ["x"])
    await until(lambda: len(failures) == 2)


async def test_too_many_at_a_time_are_refused_and_leaving_makes_room(make: Make) -> None:
    encoder = make(max_waiting=2)
    await encoder.encode(["warm"], dimensions=384)
    process = process_of(encoder)
    os.kill(process.pid, signal.SIGSTOP)
    running = [asyncio.create_task(encoder.encode(["x"], dimensions=384)) for _ in range(2)]
    await asyncio.sleep(0)
    full = await refusal(encoder, ["y"])
    assert full.kind is ErrorKind.OVERLOADED
    running[0].cancel()
    await asyncio.wait({running[0]})
    # What was given up is still queued where nobody reads: it counts until it is dropped.
    assert (await refusal(encoder, ["y"])).kind is ErrorKind.OVERLOADED
    os.kill(process.pid, signal.SIGCONT)
    assert isinstance(await running[1], Vectors)
    later = await encoder.encode(["z"], dimensions=384)
    assert len(later.vectors) == 1


async def test_what_is_given_up_is_not_computed(make: Make) -> None:
    encoder = make()
    await encoder.encode(["warm"], dimensions=384)
    process = process_of(encoder)
    begun = asyncio.create_task(encode_many(encoder))
    await asyncio.sleep(0)
    await encoder.encode(["small"], dimensions=384)
    os.kill(process.pid, signal.SIGSTOP)
    unread = [asyncio.create_task(encode_many(encoder)) for _ in range(6)]
    await asyncio.sleep(0)
    for task in (begun, *unread):
        task.cancel()
    await asyncio.wait({begun, *unread})
    before = process.cpu_times().user
    os.kill(process.pid, signal.SIGCONT)
    await encoder.encode(["small"], dimensions=384)
    spent = process.cpu_times().user - before
    began = process.cpu_times().user
    await encode_many(encoder)
    assert spent < process.cpu_times().user - began


async def encode_many(encoder: Encoder) -> Vectors:
    """Asks for the vectors of as many texts as take a second or more."""
    return await encoder.encode(["and so on " * 80] * 40, dimensions=384)


async def test_a_small_request_does_not_wait_for_a_large_one(make: Make) -> None:
    encoder = make()
    await encoder.encode(["warm"], dimensions=384)
    large = asyncio.create_task(encode_many(encoder))
    await asyncio.sleep(0)
    for _ in range(3):
        await encoder.encode(["small"], dimensions=384)
    assert not large.done()
    assert len((await large).vectors) == 40


async def test_a_slow_start_is_given_up(
    make: Make, failures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.001)
    encoder = make()
    assert (await refusal(encoder, ["x"])).kind is ErrorKind.ENGINE_UNAVAILABLE
    await until(lambda: bool(failures))
    assert "not ready" in failures[0]


async def test_nothing_is_left_after_the_end(make: Make, failures: list[str]) -> None:
    encoder = make()
    await encoder.encode(["warm"], dimensions=384)
    process = process_of(encoder)
    await encoder.close()
    assert not process.is_running()
    assert failures == []
    assert (await refusal(encoder, ["x"])).kind is ErrorKind.ENGINE_UNAVAILABLE


async def test_what_is_no_message_ends_the_connection() -> None:
    connection = EncoderConnection()
    connection.data_received(b"\xff\xff\xff\xff nonsense")
    assert "unreadable" in connection.closed.result()
