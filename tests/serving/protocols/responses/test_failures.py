"""Failures that nobody foresaw, in the midst of a response: told, stored, without their words."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from serving.errors import ServingError
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.edge.server import MODEL, Api

SECRET = "/secret/path"


async def broken_off(api: Api, vocabulary: Vocabulary, **fields: Any) -> str:
    """Returns the body of a streamed response whose engine breaks in the midst of it."""
    body = {"model": MODEL, "input": "Hello", "stream": True, **fields}
    asking = asyncio.create_task(api.client.post("/v1/responses", json=body))
    stream = await api.engine.next_stream(len(api.engine.opened))
    stream.give(render_completion(Assistant(content="Hello you"), vocabulary)[:-2])
    stream.fail(cast(ServingError, RuntimeError(SECRET)))
    return (await asking).text


def response_id(stream: str) -> str:
    return stream.split('"id":"')[1].split('"')[0]


@pytest.mark.parametrize("background", [False, True])
async def test_it_is_stored_as_failed_and_says_nothing_of_its_own(
    api: Api, vocabulary: Vocabulary, background: bool
) -> None:
    streamed = await broken_off(api, vocabulary, background=background)
    assert "event: response.failed" in streamed
    stored = await api.client.get(f"/v1/responses/{response_id(streamed)}")
    body = stored.json()
    assert body["status"] == "failed"
    assert body["error"]["code"] == "server_error"
    assert body["output"][0]["content"][0]["text"] == "Hello"
    assert body["output"][0]["status"] == "incomplete"
    assert SECRET not in streamed + stored.text
    metrics = await api.metrics()
    assert any(
        'outcome="error"' in name and 'route="responses"' in name and value == 1
        for name, value in metrics.items()
    )


async def test_a_conversation_goes_on_without_it(api: Api, vocabulary: Vocabulary) -> None:
    name = (await api.client.post("/v1/conversations", json={})).json()["id"]
    await broken_off(api, vocabulary, conversation=name)
    items = await api.client.get(f"/v1/conversations/{name}/items")
    assert items.json()["data"] == []
    added = await api.client.post(
        f"/v1/conversations/{name}/items", json={"items": [{"role": "user", "content": "Hi"}]}
    )
    assert added.status_code == 200
