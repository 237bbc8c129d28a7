"""Tokenize and detokenize: the very ids that a request would have."""

from __future__ import annotations

from typing import Any

import pytest

from serving.boundary.lifecycle import EngineState
from serving.harmony.vocabulary import CHANNEL, Vocabulary
from tests.serving.protocols.edge.server import MODEL, Api, chat_body

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def tokenize(api: Api, **fields: Any) -> dict[str, Any]:
    response = await api.client.post("/v1/tokenize", json={"model": MODEL, **fields})
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def detokenize(api: Api, tokens: list[int]) -> dict[str, Any]:
    response = await api.client.post("/v1/detokenize", json={"model": MODEL, "tokens": tokens})
    body: dict[str, Any] = response.json()
    return body


async def test_a_text(api: Api, vocabulary: Vocabulary) -> None:
    text = "Hello 🦩 <|end|>"
    body = await tokenize(api, prompt=text)
    assert body["tokens"] == vocabulary.encode(text)
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] == 131_072
    assert body["token_strs"] is None
    assert await detokenize(api, body["tokens"]) == {"prompt": text, "text": text}
    assert (await tokenize(api, prompt=""))["tokens"] == []


async def test_token_strings_on_request(api: Api) -> None:
    body = await tokenize(api, prompt="Hi 🦩", return_token_strs=True)
    assert body["token_strs"][0] == "Hi"
    assert body["token_strs"][-1].startswith("bytes:\\x")


async def test_a_conversation_has_the_ids_that_a_chat_has(api: Api, vocabulary: Vocabulary) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [TOOL],
        "reasoning_effort": "high",
    }
    asked = api.ask(**fields)
    stream = await api.engine.next_stream()
    asked.cancel()
    body = await tokenize(api, **fields, return_token_strs=True)
    assert body["tokens"] == stream.prompt
    assert "".join(body["token_strs"]) == vocabulary.decode(stream.prompt)
    assert body["token_strs"][0] == "<|start|>"


async def test_a_conversation_longer_than_the_context_is_counted(api: Api) -> None:
    words = "word " * 50_000
    body = await tokenize(api, messages=[{"role": "user", "content": words}])
    assert body["count"] > 50_000


async def test_control_tokens_are_given_by_name(api: Api) -> None:
    assert (await detokenize(api, [CHANNEL, 13225]))["text"] == "<|channel|>Hello"


async def test_it_answers_while_the_engine_is_down(api: Api) -> None:
    api.engine.enter(EngineState.BACKOFF)
    assert (await tokenize(api, prompt="Hi"))["count"] == 1


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("tokenize", {}, "prompt"),
    ("tokenize", {"prompt": 5}, "prompt"),
    ("tokenize", {"prompt": "x", "return_token_strs": "yes"}, "return_token_strs"),
    ("tokenize", {"messages": []}, "messages"),
    ("tokenize", chat_body(chat_template="x"), "chat_template"),
    ("tokenize", chat_body(messages=[{"role": "tool"}]), "messages[0].content"),
    ("detokenize", {}, "tokens"),
    ("detokenize", {"tokens": "x"}, "tokens"),
    ("detokenize", {"tokens": [1.5]}, "tokens"),
    ("detokenize", {"tokens": [True]}, "tokens"),
    ("detokenize", {"tokens": [-1]}, "tokens"),
    ("detokenize", {"tokens": [201_088]}, "tokens"),
]


@pytest.mark.parametrize(("address", "fields", "param"), REFUSED, ids=repr)
async def test_what_it_refuses_it_names(
    api: Api, address: str, fields: dict[str, Any], param: str
) -> None:
    response = await api.client.post(f"/v1/{address}", json={"model": MODEL, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_model_that_is_not_here(api: Api) -> None:
    for address, fields in (("tokenize", {"prompt": "x"}), ("detokenize", {"tokens": [1]})):
        response = await api.client.post(f"/v1/{address}", json={"model": "gpt-5", **fields})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
