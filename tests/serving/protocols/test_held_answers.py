"""Tokens that break out of what an answer is held to, in every protocol and every way to get it.

The replay engine says that it keeps to grammars, and plays tokens that do not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from serving.app import create_app
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.harmony.vocabulary import CONTROL_NAMES, RETURN, Vocabulary
from serving.settings import Settings
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL, listening, until_ready
from tests.serving.protocols.replaying import launch

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
GOOD = '{"city": "Paris", "days": 3}'
BODIES = {
    "fine": GOOD,
    "control": '{"city": "Pa<|end|>ris", "days": 3}',
    "start": '{"city": "Pa<|start|>ris", "days": 3}',
    "cut": '{"city": "Par',
    "trailing": GOOD + " I hope this helps.",
    "type": '{"city": "Paris", "days": "three"}',
    "tab": '{"city": "Pa\tris", "days": 3}',
}
"""What is said, by a word of the request."""
HEADS = {
    "answer": "<|channel|>final<|message|>",
    "call": "<|channel|>commentary to=functions.plan <|constrain|>json<|message|>",
}
CODE = "invalid_output"


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Returns tokens in which the names of control tokens are those tokens."""
    for token, name in CONTROL_NAMES.items():
        before, found, after = text.partition(name)
        if found:
            return [*tokens_of(before, vocabulary), token, *tokens_of(after, vocabulary)]
    return vocabulary.encode(text)


def word(kind: str, case: str) -> str:
    return f"zebra-{kind}-{case}"


@pytest.fixture(params=[0.0, 0.001], ids=["at once", "token by token"])
async def client(
    request: pytest.FixtureRequest,
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an engine that says what a word of the request asks for."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    scenarios = [
        Scenario(
            match=tuple(vocabulary.encode(word(kind, case))),
            steps=(Tokens(ids=(*tokens_of(head + body, vocabulary), RETURN)),),
        )
        for kind, head in HEADS.items()
        for case, body in BODIES.items()
    ]
    fields = {
        "log_level": "error",
        "store": {"path": str(tmp_path / "store.sqlite3")},
        "deadlines": {"schema_seconds": 60},  # this test is not about a busy machine
    }
    app = create_app(Settings.model_validate(fields), launch=launch)
    app.state.engine_directory = replay_engine(
        Script(scenarios=tuple(scenarios), keeps_to_grammars=True, pace_seconds=request.param)
    )
    async with listening(app) as port, httpx.AsyncClient(timeout=60) as client:
        await until_ready(app.state.service)
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}/v1/")
        yield client


Ask = Callable[[httpx.AsyncClient, str, str], Awaitable[Any]]
"""Asks for a kind of answer and a case; returns the status or code of its failure, "" for none."""


def chat(kind: str, case: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": word(kind, case)}],
    }
    if kind == "call":
        function = {"name": "plan", "parameters": SCHEMA, "strict": True}
        return body | {"tools": [{"type": "function", "function": function}]}
    form = {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMA}}
    return body | {"response_format": form}


def responses(kind: str, case: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL, "input": word(kind, case)}
    if kind == "call":
        function = {"type": "function", "name": "plan", "parameters": SCHEMA, "strict": True}
        return body | {"tools": [function]}
    return body | {"text": {"format": {"type": "json_schema", "name": "plan", "schema": SCHEMA}}}


def messages(kind: str, case: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": word(kind, case)}],
    }
    if kind == "call":
        return body | {"tools": [{"name": "plan", "input_schema": SCHEMA, "strict": True}]}
    return body | {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}


async def whole(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> str:
    answer = await client.post(path, json=body)
    if answer.status_code == 200:
        return ""
    assert answer.status_code == 500
    error = answer.json()["error"]
    return str(error.get("code") or error["type"])


async def stream(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    """Returns the events of a stream, `[DONE]` as a string; a failure before them as one."""
    answer = await client.post(path, json=body | {"stream": True})
    if answer.status_code != 200:
        return [answer.json()]
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    found = [line.removeprefix("data: ") for line in lines]
    return [json.loads(data) if data != "[DONE]" else data for data in found]


async def chat_whole(client: httpx.AsyncClient, kind: str, case: str) -> str:
    return await whole(client, "chat/completions", chat(kind, case))


async def chat_of_two(client: httpx.AsyncClient, kind: str, case: str) -> str:
    return await whole(client, "chat/completions", chat(kind, case) | {"n": 2})


async def chat_stream(client: httpx.AsyncClient, kind: str, case: str) -> str:
    *_, last = await stream(client, "chat/completions", chat(kind, case))
    return "" if last == "[DONE]" else str(last["error"]["code"])


async def responses_whole(client: httpx.AsyncClient, kind: str, case: str) -> str:
    return await whole(client, "responses", responses(kind, case))


def told(events: list[Any]) -> str:
    """Returns how the events of a response end; what broke in a failed one is not complete."""
    last = events[-1]
    if "error" in last and "type" not in last:
        return str(last["error"]["code"])
    if last["type"] == "response.completed":
        return ""
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    held = [item for item in done if item["type"] in ("function_call", "message")]
    assert not held or held[0]["status"] == "incomplete"
    return CODE if "what the request holds it to" in last["response"]["error"]["message"] else "?"


async def responses_stream(client: httpx.AsyncClient, kind: str, case: str) -> str:
    return told(await stream(client, "responses", responses(kind, case)))


async def responses_background(client: httpx.AsyncClient, kind: str, case: str) -> str:
    body = responses(kind, case) | {"background": True}
    begun = (await client.post("responses", json=body)).json()
    while True:
        found = (await client.get(f"responses/{begun['id']}")).json()
        if found["status"] not in ("queued", "in_progress"):
            break
        await asyncio.sleep(0.01)
    if found["status"] == "completed":
        return ""
    assert found["status"] == "failed"
    return CODE if "what the request holds it to" in found["error"]["message"] else "?"


async def responses_socket(client: httpx.AsyncClient, kind: str, case: str) -> str:
    url = f"ws://127.0.0.1:{client.base_url.port}/v1/responses"
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps({"type": "response.create"} | responses(kind, case)))
        events: list[Any] = []
        while not events or events[-1]["type"] not in (
            *("response.completed", "response.incomplete", "response.failed", "error"),
        ):
            events.append(json.loads(await socket.recv()))
    last = events[-1]
    return str(last["error"]["code"]) if last["type"] == "error" else told(events)


async def messages_whole(client: httpx.AsyncClient, kind: str, case: str) -> str:
    return await whole(client, "messages", messages(kind, case))


async def messages_stream(client: httpx.AsyncClient, kind: str, case: str) -> str:
    *_, last = await stream(client, "messages", messages(kind, case))
    return "" if last["type"] == "message_stop" else str(last["error"]["type"])


WAYS: dict[str, tuple[Ask, str]] = {
    "chat": (chat_whole, CODE),
    "chat, two choices": (chat_of_two, CODE),
    "chat, streamed": (chat_stream, CODE),
    "responses": (responses_whole, CODE),
    "responses, streamed": (responses_stream, CODE),
    "responses, in the background": (responses_background, CODE),
    "responses, WebSocket": (responses_socket, CODE),
    "messages": (messages_whole, "api_error"),
    "messages, streamed": (messages_stream, "api_error"),
}


async def test_what_breaks_out_is_a_success_in_no_protocol(client: httpx.AsyncClient) -> None:
    for name, (ask, code) in WAYS.items():
        for kind in HEADS:
            found = {case: await ask(client, kind, case) for case in BODIES}
            assert found == {case: "" if case == "fine" else code for case in BODIES}, (name, kind)


async def test_a_free_answer_is_not_judged(client: httpx.AsyncClient) -> None:
    for case in BODIES:
        body = chat("answer", case)
        del body["response_format"]
        assert await whole(client, "chat/completions", body) == "", case


async def test_broken_answers_are_counted_by_their_code(client: httpx.AsyncClient) -> None:
    await chat_whole(client, "answer", "type")
    page = (await client.get(str(client.base_url.join("/metrics")))).text
    assert f'code="{CODE}"' in page
