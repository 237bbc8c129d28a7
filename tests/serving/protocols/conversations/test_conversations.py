"""Conversations through the official client: made, answered in, listed, changed, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.conversations import Conversation

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until
from tests.serving.protocols.responses.service import WEATHER, make_script, replaying, strict_client

SAID: Any = {"role": "user", "content": "One"}


@pytest.fixture
def engine(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where the engine is."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    return replay_engine(make_script(vocabulary))


@pytest.fixture
async def client(engine: Path, tmp_path: Path) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client, checking every response against its types."""
    async with replaying(engine, tmp_path / "kept.sqlite3") as (_, url), strict_client(url) as made:
        yield made


async def types_of(client: openai.AsyncOpenAI, conversation: Conversation) -> list[str]:
    items = client.conversations.items.list(conversation.id, order="asc")
    return [item.type async for item in items]


async def test_a_response_reads_the_conversation_and_joins_it(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[SAID], metadata={"topic": "rain"})
    assert made.id.startswith("conv_")
    first = await client.responses.create(model=MODEL, input="Two", conversation=made.id)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    assert await types_of(client, made) == ["message", "message", "reasoning", "message"]
    second = await client.responses.create(
        model=MODEL, input="Three", conversation={"id": made.id}, store=False
    )
    whole: Any = [
        SAID,
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Three"},
    ]
    alone = await client.responses.create(model=MODEL, input=whole, store=False)
    assert alone.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens == alone.usage.input_tokens
    assert len(await types_of(client, made)) == 7
    counted = await client.responses.input_tokens.count(
        model=MODEL, input="Four", conversation=made.id
    )
    assert counted.input_tokens > alone.usage.input_tokens


async def test_a_stream_and_a_tool_call_go_through_a_conversation(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.conversations.create()
    asked = "Tell me the rainfall"
    async with client.responses.stream(
        model=MODEL, input=asked, tools=[WEATHER], conversation=made.id
    ) as stream:
        call = (await stream.get_final_response()).output[-1]
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": " sunshine"}
    answer = await client.responses.create(
        model=MODEL, input=[output], tools=[WEATHER], conversation=made.id
    )
    assert answer.output_text == "Hello, wörld 😀!"
    kinds = await types_of(client, made)
    assert kinds[3:6] == ["function_call", "function_call_output", "reasoning"]


async def test_items_are_added_listed_read_and_taken_out(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create()
    added = await client.conversations.items.create(
        made.id,
        items=[
            SAID,
            {"role": "assistant", "content": "Two"},
            {"type": "reasoning", "id": "x", "summary": [{"type": "summary_text", "text": "Hm"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ],
    )
    assert not added.has_more
    pages = client.conversations.items.list(made.id, limit=3)
    newest_first = [item async for item in pages]
    assert [item.id for item in newest_first] == [item.id for item in reversed(added.data)]
    after = await client.conversations.items.list(
        made.id, order="asc", after=added.data[2].id or ""
    )
    assert [item.id for item in after.data] == [added.data[3].id]
    reasoning = await client.conversations.items.retrieve(
        added.data[2].id or "",
        conversation_id=made.id,
        include=["reasoning.encrypted_content"],
    )
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content
    left = await client.conversations.items.delete(added.data[0].id or "", conversation_id=made.id)
    assert left == made
    assert len(await types_of(client, made)) == 3
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve(added.data[0].id or "", conversation_id=made.id)


async def test_metadata_is_changed_and_the_conversation_deleted(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.conversations.create(metadata={"a": "b"})
    changed = await client.conversations.update(made.id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"}
    assert await client.conversations.retrieve(made.id) == changed
    response = await client.responses.create(model=MODEL, input="Hi", conversation=made.id)
    gone = await client.conversations.delete(made.id)
    assert gone.deleted
    assert await client.responses.retrieve(response.id) == response
    for attempt in (
        client.conversations.retrieve(made.id),
        client.conversations.delete(made.id),
        client.conversations.update(made.id, metadata={}),
        client.conversations.items.create(made.id, items=[SAID]),
    ):
        with pytest.raises(openai.NotFoundError):
            await attempt
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.list(made.id)
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(model=MODEL, input="Hi", conversation=made.id)
    assert missing.value.param == "conversation"


async def test_conversations_survive_a_restart(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "again" / "kept.sqlite3"
    async with replaying(engine, path) as (_, url), strict_client(url) as client:
        made = await client.conversations.create(items=[SAID])
        await client.responses.create(model=MODEL, input="Hi", conversation=made.id)
    async with replaying(engine, path) as (_, url), strict_client(url) as client:
        assert await client.conversations.retrieve(made.id) == made
        assert len(await types_of(client, made)) == 4


@pytest.fixture
async def api(start: Start, tmp_path: Path) -> Api:
    """A ready API with a store of its own and an engine that the test plays."""
    return await start(store={"path": str(tmp_path / "kept.sqlite3")})


async def conversation(api: Api) -> str:
    made = await api.client.post("/v1/conversations", json={})
    assert made.status_code == 200
    return str(made.json()["id"])


async def items(api: Api, name: str) -> list[str]:
    page = await api.client.get(f"/v1/conversations/{name}/items?order=asc")
    return [item["type"] for item in page.json()["data"]]


async def test_one_request_at_a_time_answers_in_a_conversation(
    api: Api, vocabulary: Vocabulary
) -> None:
    name = await conversation(api)
    body = {"model": MODEL, "input": "Hello", "conversation": name}
    asking = asyncio.create_task(api.client.post("/v1/responses", json=body))
    stream = await api.engine.next_stream(0)
    for path, more in (
        ("/v1/responses", body),
        ("/v1/responses", {**body, "background": True}),
        (f"/v1/conversations/{name}/items", {"items": [SAID]}),
    ):
        refused = await api.client.post(path, json=more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            400,
            "conversation_locked",
        )
    stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
    assert (await asking).json()["conversation"] == {"id": name}
    assert await items(api, name) == ["message", "message"]
    assert (
        await api.client.post(f"/v1/conversations/{name}/items", json={"items": [SAID]})
    ).is_success


@pytest.mark.parametrize("background", [False, True])
async def test_what_was_not_answered_does_not_join_and_frees_the_conversation(
    api: Api, vocabulary: Vocabulary, background: bool
) -> None:
    name = await conversation(api)
    body: dict[str, Any] = {"model": MODEL, "input": "Hello", "conversation": name}
    body["background"] = background
    # Refused for the prompt, before it runs.
    early = await api.client.post("/v1/responses", json={**body, "max_output_tokens": 10**9})
    assert early.status_code == 400
    asking = asyncio.create_task(api.client.post("/v1/responses", json=body))
    stream = await api.engine.next_stream(0)
    if background:
        begun = (await asking).json()["id"]
        await api.client.post(f"/v1/responses/{begun}/cancel")
    else:
        asking.cancel()  # the client leaves
    await until(stream.closed.is_set)
    for _ in range(1000):
        body = {"items": [SAID]}
        if (await api.client.post(f"/v1/conversations/{name}/items", json=body)).is_success:
            break
        await asyncio.sleep(0.005)
    assert await items(api, name) == ["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"conversation": "c", "previous_response_id": "r"}, "conversation"),
        ("/v1/responses", {"conversation": 3}, "conversation"),
        ("/v1/responses", {"conversation": {"name": "c"}}, "conversation"),
        ("/v1/conversations", {"items": [{"type": "image"}]}, "items[0]"),
        ("/v1/conversations", {"items": [SAID] * 21}, "items"),
        ("/v1/conversations", {"metadata": {"a": 1}}, "metadata.a"),
        ("/v1/conversations", {"metadata": {f"{n}": "" for n in range(17)}}, "metadata"),
        ("/v1/conversations/c", {}, "metadata"),
        ("/v1/conversations/c/items", {}, "items"),
        ("/v1/conversations/c/items", {"items": []}, "items"),
        ("/v1/conversations/c/items?include=nothing", {"items": [SAID]}, "include"),
    ],
)
async def test_wrong_requests_are_told_what_is_wrong(
    api: Api, path: str, body: dict[str, Any], param: str
) -> None:
    if path == "/v1/responses":
        body = {"model": MODEL, "input": "Hi", **body}
    response = await api.client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_reference_to_an_item_that_is_not_there_is_told(api: Api) -> None:
    body = {"items": [SAID, {"type": "item_reference", "id": "msg_no"}]}
    response = await api.client.post("/v1/conversations", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (404, "items[1].id")


async def test_without_a_store_there_are_none(start: Start) -> None:
    api = await start(store={"enabled": False})
    assert (await api.client.post("/v1/conversations", json={})).status_code == 404
    assert (await api.client.get("/v1/conversations/c/items")).status_code == 404
    for field in ("conversation", "previous_response_id"):
        body = {"model": MODEL, "input": "Hi", field: "c"}
        refused = await api.client.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
