"""Two hundred streams at once through `bentoml serve`: each gets its own words and no other's."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import model_assets
from serving.boundary.engine import Limits
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Echo, Scenario, Script, Tokens
from serving.harmony.vocabulary import CHANNEL, END, MESSAGE, RETURN, START, Vocabulary
from tests.commands import Served, serve
from tests.serving.protocols.edge.server import MODEL

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
STREAMS = 200
LIMITS = Limits(max_batch_size=STREAMS, max_num_tokens=8192, max_seq_len=131_072)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An engine that says what the user said, a token in two milliseconds, to all at once."""
    vocabulary = Vocabulary.load(RANKS)
    steps = (
        Tokens(ids=(CHANNEL, *vocabulary.encode("final"), MESSAGE)),
        Echo(after=(START, *vocabulary.encode("user"), MESSAGE), before=(END,)),
        Tokens(ids=(RETURN,)),
    )
    script = Script(pace_seconds=0.002, scenarios=(Scenario(steps=steps),))
    directory = tmp_path_factory.mktemp("replay") / "engine"
    replay_engine.write(directory, script, ranks=RANKS, limits=LIMITS)
    home = tmp_path_factory.mktemp("bentoml")
    extra = {"GPT_OSS_ENGINE": str(directory), "GPT_OSS_STORE__ENABLED": "false"}
    with serve(home, extra=extra) as running:
        running.wait_until_ready()
        yield running


def talk(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def chat_text(event: Any) -> str:
    return event["choices"][0]["delta"].get("content") or ""


def response_text(event: Any) -> str:
    return event["delta"] if event["type"] == "response.output_text.delta" else ""


def message_text(event: Any) -> str:
    return event["delta"]["text"] if event["type"] == "content_block_delta" else ""


PROTOCOLS: list[tuple[str, Any, Any]] = [
    ("/v1/chat/completions", talk, chat_text),
    ("/v1/responses", lambda text: {"input": text}, response_text),
    ("/v1/messages", lambda text: talk(text) | {"max_tokens": 10_000}, message_text),
]


async def test_every_stream_gets_its_own_nonce(served: Served) -> None:
    chance = random.Random(7)
    nonces = [f"{chance.getrandbits(128):032x} " * chance.randint(1, 8) for _ in range(STREAMS)]
    begun = asyncio.Barrier(STREAMS)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=served.url, timeout=60, limits=limits) as client:

        async def hear(number: int) -> str:
            path, make, read = PROTOCOLS[number % len(PROTOCOLS)]
            body = {"model": MODEL, "stream": True, **make(nonces[number])}
            heard = []
            async with client.stream("POST", path, json=body) as answer:
                assert answer.status_code == 200
                await begun.wait()  # every stream is open before any is read
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        heard.append(read(json.loads(line.removeprefix("data: "))))
            return "".join(heard)

        said = await asyncio.gather(*(hear(number) for number in range(STREAMS)))
    assert said == nonces
