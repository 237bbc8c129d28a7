"""Clients that leave, or stop to read."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api, chat_body, connected, until

ABORT_SECONDS = 0.1
TRIES = 3
"""The best counts: what else runs on the machine can make any one of them late."""


def header(vocabulary: Vocabulary) -> list[int]:
    """Returns the tokens that open a final answer."""
    return render_completion(Assistant(content="x"), vocabulary)[:-2]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_before_the_first_token_aborts_within_100_ms(
    api: Api, streamed: bool
) -> None:
    seconds = []
    for number in range(TRIES):
        async with connected(api.port) as client:
            await client.post(chat_body(stream=streamed))
            stream = await api.engine.next_stream(number)
        seconds.append(await aborted(stream.closed))
    assert min(seconds) < ABORT_SECONDS
    await recorded(api, 'llmserve_client_aborts_total{phase="prefill"}', TRIES)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_while_the_engine_is_silent_aborts_within_100_ms(
    api: Api, vocabulary: Vocabulary, streamed: bool
) -> None:
    seconds = []
    for number in range(TRIES):
        async with connected(api.port) as client:
            await client.post(chat_body(stream=streamed))
            stream = await api.engine.next_stream(number)
            stream.give([*header(vocabulary), *vocabulary.encode("Hel")])
            if streamed:
                assert b" 200 " in await client.reader.readline()
            await until(stream.all_taken)
        seconds.append(await aborted(stream.closed))
    assert min(seconds) < ABORT_SECONDS
    await recorded(api, 'llmserve_client_aborts_total{phase="decode"}', TRIES)


async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(start: Start) -> None:
    api = await start(admission={"max_running": 1})
    running = api.ask()
    await api.engine.next_stream()
    async with connected(api.port) as client:
        await client.post(chat_body())
        await asyncio.sleep(0.05)
    await recorded(api, 'llmserve_client_aborts_total{phase="queue"}')
    assert len(api.engine.opened) == 1
    running.cancel()


async def test_a_client_that_does_not_read_is_cut_off(start: Start, vocabulary: Vocabulary) -> None:
    api = await start(deadlines={"slow_client_seconds": 0.2})
    async with connected(api.port) as client:
        await client.post(chat_body(stream=True))
        stream = await api.engine.next_stream()
        stream.give(header(vocabulary))
        flood = vocabulary.encode("word " * 20_000)
        async with asyncio.timeout(10):
            while not stream.closed.is_set():
                stream.give(flood)
                await asyncio.sleep(0.01)


async def aborted(closed: asyncio.Event) -> float:
    """Waits for the abort and returns how many seconds it took."""
    began = time.monotonic()
    async with asyncio.timeout(5):
        await closed.wait()
    return time.monotonic() - began


async def recorded(api: Api, metric: str, count: int = 1) -> None:
    """Waits until `metric` is `count`."""
    for _ in range(500):
        if (await api.metrics()).get(metric) == count:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(metric)
