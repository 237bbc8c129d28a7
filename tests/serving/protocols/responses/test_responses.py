"""The Responses API over a real socket: events, errors, disconnects; every field."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.boundary.messages import Fault, Output
from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until

WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "Hello", "store": False, **fields}


def ask(api: Api, **fields: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.client.post("/v1/responses", json=body_of(**fields)))


def answer(vocabulary: Vocabulary, text: str, reasoning: str | None = "Hm.") -> list[int]:
    return render_completion(Assistant(reasoning=reasoning, content=text), vocabulary)


def events_of(text: str) -> list[dict[str, Any]]:
    """Returns the events of a stream; each is named as its type is."""
    events = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_every_event_comes_in_its_place(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, stream=True)
    stream = await api.engine.next_stream()
    for token in answer(vocabulary, "Hello 😀")[:-1]:
        stream.give([token])
        await asyncio.sleep(0)
    stream.give(answer(vocabulary, "x")[-1:], finish="stop")
    response = await asked
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "completed",
    ]
    assert [kinds.count(kind) for kind in ("output_item.added", "output_item.done")] == [2, 2]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Hello 😀"
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["item"]["content"] for event in added] == [[], []]
    assert [event["item"]["status"] for event in added] == ["in_progress"] * 2
    assert events[0]["response"]["status"] == "in_progress"
    last = events[-1]["response"]
    assert last["usage"]["input_tokens"] == len(stream.prompt)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]


async def test_what_comes_at_once_is_told_as_what_comes_in_pieces(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = ask(api, stream=True, reasoning={"summary": "auto"})
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hello"), finish="stop")
    events = events_of((await asked).text)
    opened = [e for e in events if e["type"].endswith(".added")]
    closed = [e for e in events if e["type"].endswith((".item.done", "part.done"))]
    assert len([e for e in opened if "part" in e]) == len([e for e in closed if "part" in e]) == 3
    summary = [e for e in events if "summary_text" in e["type"]]
    assert [e.get("delta") or e["text"] for e in summary] == ["Hm.", "Hm."]
    item = events[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert item["content"] == [{"type": "reasoning_text", "text": "Hm."}]


async def test_the_response_repeats_the_request(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(
        api,
        instructions="Be brief.",
        tools=[WEATHER],
        tool_choice="auto",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=99,
        user="me",
        parallel_tool_calls=False,
        reasoning={"effort": "high"},
        truncation="auto",
    )
    stream = await api.engine.next_stream()
    assert stream.samplings[0].max_tokens == 99
    assert stream.samplings[0].temperature == 0.5
    stream.give(answer(vocabulary, "Hi"), finish="stop", cached_tokens=32)
    response = (await asked).json()
    assert response["id"].startswith("resp_")
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["instructions"] == "Be brief."
    assert response["metadata"] == {"a": "b"}
    assert response["tools"] == [{**WEATHER, "description": None, "strict": False}]
    assert response["user"] == "me"
    assert response["reasoning"] == {"effort": "high", "summary": None}
    assert (response["temperature"], response["top_p"]) == (0.5, 1.0)
    assert response["truncation"] == "auto"
    assert response["parallel_tool_calls"] is False
    assert "safety_identifier" not in response
    assert response["usage"]["input_tokens_details"] == {
        "cached_tokens": 32,
        "cache_write_tokens": 0,
    }


async def test_a_call_has_an_id_of_its_own_and_its_arguments(
    api: Api, vocabulary: Vocabulary
) -> None:
    call = ToolCall(name="get_weather", arguments='{"city":"Paris"}')
    tokens = render_completion(Assistant(content="I look.", calls=(call,)), vocabulary)
    asked = ask(api, tools=[WEATHER], stream=True)
    stream = await api.engine.next_stream()
    stream.give(tokens, finish="stop")
    events = events_of((await asked).text)
    preamble, item = events[-1]["response"]["output"]
    assert preamble["content"][0]["text"] == "I look."
    assert item["id"].startswith("fc_")
    assert item["call_id"].startswith("call_")
    assert (item["name"], item["arguments"]) == ("get_weather", '{"city":"Paris"}')
    (done,) = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert (done["item_id"], done["arguments"]) == (item["id"], item["arguments"])
    (added,) = [e for e in events if e.get("item", {}).get("arguments") == ""]
    assert added["item"]["name"] == "get_weather"


async def test_an_answer_that_is_cut_off_is_incomplete(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, stream=True, max_output_tokens=4)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "x", "Long thoughts")[:4], finish="length")
    last = events_of((await asked).text)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in last["response"]["output"]] == ["incomplete"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_before_the_first_token_has_a_true_status(api: Api, streamed: bool) -> None:
    asked = ask(api, stream=streamed)
    stream = await api.engine.next_stream()
    stream.push(0, Output(1, [], "error", fault=Fault("out_of_memory", "Out of memory.")))
    response = await asked
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_out_of_memory"


async def test_a_failure_after_tokens_closes_what_is_open_and_is_told(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = ask(api, stream=True)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hello")[:-2])
    await until(stream.all_taken)
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    events = events_of((await asked).text)
    failed = events[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["message"] == "The engine stopped."
    assert events[-2]["type"] == "response.output_item.done"
    assert events[-2]["item"]["status"] == "incomplete"


async def test_a_client_that_leaves_frees_the_engine(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, stream=True)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hello")[:3])
    await until(stream.all_taken)
    asked.cancel()
    async with asyncio.timeout(5):
        await stream.closed.wait()
    await until(lambda: api.service.backend().pipeline.admission.running == 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "file_search_call", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "no", "output": "x"}]},
            "input[0].call_id",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA!"}]},
            "input[0].encrypted_content",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].server_label"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"include": ["everything"]}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "input"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"conversation": 1}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"prompt_cache_options": {"prewarm": "yes"}}, "prompt_cache_options.prewarm"),
        ({"chat_template": "x"}, "chat_template"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, fields: dict[str, Any], param: str) -> None:
    response = await ask(api, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert param in error["message"] or "context" in error["message"]
    assert "messages" not in error["param"]


async def test_unknown_fields_are_counted(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, colour="red")
    (await api.engine.next_stream()).give(answer(vocabulary, "Hi"), finish="stop")
    assert (await asked).status_code == 200
    assert (await api.metrics())["llmserve_unknown_request_fields_total"] == 1


async def test_a_response_whose_client_leaves_is_not_stored(
    start: Start, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    api = await start(store={"path": str(tmp_path / "responses.sqlite3")})
    asked = ask(api, stream=True, store=True)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hello")[:3])
    await until(stream.all_taken)
    asked.cancel()
    async with asyncio.timeout(5):
        await stream.closed.wait()
    await until(lambda: api.service.backend().pipeline.admission.running == 0)
    assert not (tmp_path / "responses.sqlite3").exists()


async def test_nothing_is_stored_where_the_settings_say_so(
    start: Start, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "responses.sqlite3"
    api = await start(store={"enabled": False, "path": str(path)})
    asked = ask(api, store=True)
    (await api.engine.next_stream()).give(answer(vocabulary, "Hi"), finish="stop")
    assert (await asked).json()["store"] is False
    assert not path.exists()
