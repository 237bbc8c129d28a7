"""Many clients at once, of which many leave: nobody gets another's words and nothing is left."""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import pytest

from serving.app import create_app
from serving.engines.replay.script import Echo, Scenario, Script, Tokens
from serving.fleet.service import Service
from serving.harmony.vocabulary import CHANNEL, END, MESSAGE, RETURN, START, Vocabulary
from serving.settings import Settings
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import (
    chat_body,
    connected,
    listening,
    sse_events,
    until_ready,
)

CLIENTS = 200
WORDS = "the quick brown fox jumps over the lazy dog and " * 4


@pytest.fixture
def echo(vocabulary: Vocabulary) -> Script:
    """An engine that says what the user said, a token a millisecond."""
    header = (CHANNEL, *vocabulary.encode("final"), MESSAGE)
    said = Echo(after=(START, *vocabulary.encode("user"), MESSAGE), before=(END,))
    steps = (Tokens(ids=header), said, Tokens(ids=(RETURN,)))
    return Script(pace_seconds=0.001, scenarios=(Scenario(steps=steps),))


async def test_clients_that_stay_get_their_own_words_and_the_others_leave_nothing(
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    echo: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    chance = random.Random(7)
    app = create_app(Settings(log_level="error", engine=str(replay_engine(echo))))
    service: Service = app.state.service
    async with listening(app) as port:
        await until_ready(service)
        limits = httpx.Limits(max_connections=None)
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            await asyncio.gather(
                *(
                    leave(port, number, chance.uniform(0.0, 0.3))
                    if chance.random() < 0.5
                    else stay(client, url, number, streamed=chance.random() < 0.5)
                    for number in range(CLIENTS)
                )
            )
        await nothing_left(service)


async def stay(client: httpx.AsyncClient, url: str, number: int, *, streamed: bool) -> None:
    """Asks, reads to the end, and checks that every word is the one that was said."""
    body = chat_body(messages=[{"role": "user", "content": f"{WORDS}{number}"}], stream=streamed)
    text = (await client.post(url, json=body)).text
    if streamed:
        chunks = sse_events(text)
        assert chunks[-1] == "[DONE]"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        content = "".join(delta.get("content", "") for delta in deltas)
    else:
        content = json.loads(text)["choices"][0]["message"]["content"]
    assert content == f"{WORDS}{number}"


async def leave(port: int, number: int, seconds: float) -> None:
    """Asks and goes away after a while."""
    async with connected(port) as client:
        words = [{"role": "user", "content": f"{WORDS}{number}"}]
        await client.post(chat_body(messages=words, stream=number % 2 == 0))
        await asyncio.sleep(seconds)


async def nothing_left(service: Service) -> None:
    """Waits until no ticket is out and the engine holds no sequence."""
    pipeline = service.backend().pipeline
    for _ in range(200):
        stats = await pipeline.engine.stats()
        if not (pipeline.admission.running or stats.running or stats.waiting or stats.blocks_used):
            break
        await asyncio.sleep(0.02)
    assert pipeline.admission.running == 0
    assert pipeline.admission.waiting == 0
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert not [task for task in asyncio.all_tasks() if "Connection._listen" in repr(task)]
