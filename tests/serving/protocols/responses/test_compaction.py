"""Compaction through the official client: what is kept, what is summarised, how it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.protocols.responses.compaction import REQUEST
from serving.protocols.responses.conversation import SUMMARY as FRAME
from serving.protocols.responses.items import seal
from tests.conftest import ReplayEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api
from tests.serving.protocols.responses.service import SUMMARY, WEATHER, make_script, replaying

TURNS: Any = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "Tell me the rainfall"},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
    {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "3 mm"},
    {"role": "assistant", "content": "Three."},
]


@pytest.fixture
async def client(
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client. Not strict: its types know no user's messages in a compaction."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    directory = replay_engine(make_script(vocabulary))
    async with (
        replaying(directory, tmp_path / "kept.sqlite3") as (_, url),
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def roles(output: list[Any]) -> list[str]:
    return [item.role if item.type == "message" else item.type for item in output]


async def test_messages_of_the_user_are_kept_and_the_rest_becomes_a_summary(
    client: openai.AsyncOpenAI,
) -> None:
    made = await client.responses.compact(model=MODEL, input=TURNS)
    assert made.object == "response.compaction"
    assert roles(made.output) == ["developer", "user", "compaction"]
    compaction = made.output[-1]
    assert compaction.type == "compaction"
    assert compaction.encrypted_content == seal(SUMMARY)
    assert made.usage.output_tokens_details.reasoning_tokens > 0

    items: Any = [item.model_dump(exclude_none=True, warnings=False) for item in made.output]
    items.append({"role": "user", "content": "And now?"})
    answer = await client.responses.create(model=MODEL, input=items)
    assert answer.status == "completed"
    written: Any = [
        *TURNS[:2],
        {"role": "user", "content": f"{FRAME}\n\n{SUMMARY}"},
        {"role": "user", "content": "And now?"},
    ]
    told = await client.responses.input_tokens.count(model=MODEL, input=written)
    assert answer.usage is not None
    assert answer.usage.input_tokens == told.input_tokens

    again = await client.responses.compact(model=MODEL, input=items)
    assert roles(again.output) == ["developer", "user", "user", "compaction"]


async def test_it_goes_on_with_what_is_stored(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model=MODEL, input="Tell me the rainfall", tools=[WEATHER]
    )
    made = await client.responses.compact(
        model=MODEL, previous_response_id=first.id, instructions="Be kind."
    )
    assert roles(made.output) == ["user", "compaction"]
    items: Any = [item.model_dump(exclude_none=True, warnings=False) for item in made.output]
    conversation = await client.conversations.create(items=items)
    listed = client.conversations.items.list(conversation.id, order="asc")
    assert [item.type async for item in listed] == ["message", "compaction"]
    answer = await client.responses.create(model=MODEL, input="Go on", conversation=conversation.id)
    assert answer.status == "completed"


async def test_the_conversation_is_read_from_the_cache(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="The rules of the house. " * 40)
    made = await client.responses.compact(model=MODEL, previous_response_id=first.id)
    assert made.usage.input_tokens_details.cached_tokens > 200


@pytest.fixture
async def api(start: Start) -> Api:
    """A ready API over an engine that the test plays."""
    return await start()


async def compact(
    api: Api, vocabulary: Vocabulary, answer: Assistant, finish: Literal["stop", "length"]
) -> Any:
    asking = asyncio.create_task(
        api.client.post("/v1/responses/compact", json={"model": MODEL, "input": TURNS})
    )
    stream = await api.engine.next_stream(0)
    stream.give(render_completion(answer, vocabulary), finish=finish)
    return (await asking).json(), stream


async def test_the_model_reads_the_whole_conversation_and_then_the_request(
    api: Api, vocabulary: Vocabulary
) -> None:
    _, stream = await compact(api, vocabulary, Assistant(content="So."), "stop")
    prompt = vocabulary.decode(stream.prompt)
    assert prompt.index("3 mm") < prompt.index("Three.") < prompt.index(REQUEST)
    assert "Reasoning: medium" in prompt
    assert stream.samplings[0].temperature == 0


@pytest.mark.parametrize(
    ("answer", "finish", "code"),
    [
        (Assistant(content="A summary that is cut"), "length", "context_length_exceeded"),
        (Assistant(reasoning="Only thought.", content=" "), "stop", "degenerate_output"),
    ],
)
async def test_a_summary_that_is_not_whole_is_an_error(
    api: Api,
    vocabulary: Vocabulary,
    answer: Assistant,
    finish: Literal["stop", "length"],
    code: str,
) -> None:
    body, _ = await compact(api, vocabulary, answer, finish)
    assert body["error"]["code"] == code


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [], "instructions": "Be kind."}, "input"),
        ({"input": [{"type": "compaction", "encrypted_content": "gAAA_"}]},
         "input[0].encrypted_content"),
        ({"input": "x" * 40000}, "input"),
        ({"previous_response_id": "r", "conversation": "c"}, "conversation"),
        ({"previous_response_id": "resp_no"}, "previous_response_id"),
        ({"image": {}}, "image"),
        ({"model": None}, "model"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(
    start: Start, tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    api = await start(store={"path": str(tmp_path / "kept.sqlite3")})
    body = {"model": MODEL, "input": TURNS, **fields}
    response = await api.client.post("/v1/responses/compact", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_as_many_items_as_a_request_may_have_are_compacted(
    client: openai.AsyncOpenAI,
) -> None:
    items: Any = [{"role": "user", "content": "x"}] * 2048
    made = await client.responses.compact(model=MODEL, input=items)
    assert roles(made.output) == ["user"] * 2048 + ["compaction"]
    with pytest.raises(openai.BadRequestError):
        await client.responses.compact(model=MODEL, input=[*items, *items[:1]])
