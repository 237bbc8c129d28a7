"""One kind of work does not hold up another, and what a client gave up is not done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from serving.control.workers import THREADS
from serving.generation import prepare as preparation
from serving.harmony.conversation import Conversation
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, chat_body, connected, until

LONG = "A sentence of several words. " * 3500
"""Of 100 KB: read, or encoded, in a thread."""

FORMAT = {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {"q": {}}}}


def held(number: int) -> dict[str, Any]:
    """Returns a chat whose answer is held to a schema of its own."""
    schema = {"name": "x", "schema": {"type": "object", "properties": {f"p{number}": {}}}}
    return chat_body(response_format={"type": "json_schema", "json_schema": schema})


def compilers() -> list[psutil.Process]:
    """Returns the processes of this one that compile schemas."""
    return [c for c in psutil.Process().children() if "grammar.process" in " ".join(c.cmdline())]


async def code(asked: asyncio.Task[httpx.Response]) -> tuple[int, str]:
    response = await asked
    return response.status_code, response.json()["error"]["code"]


async def tokenized(api: Api) -> int:
    """Returns how many tokens a long text has, by `/v1/tokenize`."""
    answer = await api.client.post("/v1/tokenize", json={"model": MODEL, "prompt": LONG})
    assert answer.status_code == 200
    count: int = answer.json()["count"]
    return count


async def test_schemas_that_do_not_come_to_an_end(start: Start, tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.facts = msgspec.structs.replace(engine.facts, capabilities=("grammar",))
    api = await start(
        engine,
        admission={"max_waiting_schemas": 1},
        deadlines={"schema_seconds": 60},
        store={"path": str(tmp_path / "responses.sqlite3")},
    )

    def ask(number: int, milliseconds: int = 60_000) -> asyncio.Task[httpx.Response]:
        headers = {"x-request-timeout-ms": str(milliseconds)}
        sent = api.client.post("/v1/chat/completions", json=held(number), headers=headers)
        return asyncio.create_task(sent)

    first = ask(0)
    await api.engine.next_stream()  # the compiler has started
    (compiler,) = compilers()
    compiler.suspend()
    try:
        running = ask(1)
        late = ask(2, milliseconds=300)
        assert await code(late) == (504, "deadline_exceeded")
        async with connected(api.port) as leaving:
            await leaving.post(held(3))
            while (refused := await ask(4, milliseconds=200)).status_code != 503:
                pass
            assert refused.json()["error"]["code"] == "overloaded"
            assert refused.headers["retry-after"]
        while (refused := await ask(4, milliseconds=200)).status_code == 503:
            pass
        # And one in the background that is cancelled.
        fields = {"model": MODEL, "input": "Hi", "background": True, "text": {"format": FORMAT}}
        name = (await api.client.post("/v1/responses", json=fields)).json()["id"]
        assert await code(ask(4)) == (503, "overloaded")
        cancelled = await api.client.post(f"/v1/responses/{name}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert await code(ask(4, milliseconds=200)) == (504, "deadline_exceeded")
        assert await tokenized(api) > 10_000
        assert len(api.engine.opened) == 1
    finally:
        compiler.resume()
    await api.engine.next_stream(1)
    first.cancel()
    running.cancel()


class Rendering:
    """Rendering that comes to an end when it may."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = threading.Event()

    def __call__(self, conversation: Conversation, vocabulary: Vocabulary) -> list[int]:
        """Renders."""
        self.begun.append(str(conversation)[-10:])
        assert self.may_end.wait(20)
        return render(conversation, vocabulary)


@pytest.fixture
def rendering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rendering]:
    made = Rendering()
    monkeypatch.setattr(preparation, "render", made)
    yield made
    made.may_end.set()


async def test_prompts_that_take_long_to_read(start: Start, rendering: Rendering) -> None:
    api = await start(FakeEngine(max_seq_len=200_000), admission={"max_waiting": 1})
    long = [{"role": "user", "content": LONG}]
    running = [api.ask(messages=long) for _ in range(THREADS)]
    await until(lambda: len(rendering.begun) == THREADS)
    async with connected(api.port) as leaving:
        await leaving.post(chat_body(messages=long), "x-request-timeout-ms: 60000")
        while (refused := await short(api, long)).status_code != 503:
            assert refused.status_code == 504
        assert refused.headers["retry-after"]
    while (refused := await short(api, long)).status_code == 503:
        pass
    assert refused.json()["error"]["code"] == "deadline_exceeded"
    assert await tokenized(api) > 10_000
    assert len(rendering.begun) == THREADS
    rendering.may_end.set()
    await api.engine.next_stream(THREADS - 1)
    assert len(rendering.begun) == THREADS  # the one that left has not been read
    for task in running:
        task.cancel()


async def short(api: Api, messages: list[dict[str, str]]) -> httpx.Response:
    """Asks with little time."""
    return await api.client.post(
        "/v1/chat/completions",
        json=chat_body(messages=messages),
        headers={"x-request-timeout-ms": "200"},
    )


def to_count(path: str, number: int) -> dict[str, Any]:
    """Returns a request whose text begins with a number."""
    text = f"{number} {LONG}"
    if path == "messages/count_tokens":
        return chat_body(messages=[{"role": "user", "content": text}])
    return {"model": MODEL, "prompt" if path == "tokenize" else "input": text}


@pytest.mark.parametrize("path", ["tokenize", "responses/input_tokens", "messages/count_tokens"])
async def test_counting_for_a_client_that_left_is_not_done(
    start: Start, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    api = await start()
    begun: list[str] = []
    may_end = threading.Event()
    real = vocabulary.encode

    def encode(text: str) -> list[int]:
        if text.endswith(LONG):
            begun.append(text[0])
            assert may_end.wait(20)
        return real(text)

    async def ask(number: int, milliseconds: int = 60_000) -> int:
        headers = {"x-request-timeout-ms": str(milliseconds)}
        body = to_count(path, number)
        return (await api.client.post(f"/v1/{path}", json=body, headers=headers)).status_code

    monkeypatch.setattr(vocabulary, "encode", encode)
    running = [asyncio.create_task(ask(number)) for number in range(THREADS)]
    await until(lambda: len(begun) == THREADS)
    async with connected(api.port) as leaving:
        await leaving.post(to_count(path, 7), path=f"/v1/{path}")
        assert await ask(8, milliseconds=200) == 504
    asked = asyncio.create_task(ask(9))
    assert (await api.client.get("/livez")).status_code == 200
    may_end.set()
    assert await asyncio.gather(*running, asked) == [200] * (THREADS + 1)
    assert sorted(begun) == ["0", "1", "9"]
