"""Chat Completions over a real socket: answers, streams, errors, disconnects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.boundary.lifecycle import EngineState
from serving.boundary.messages import Fault, Logprob, Output
from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api, chat_body, sse_events

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def answer(vocabulary: Vocabulary, text: str, reasoning: str | None = "Hm.") -> list[int]:
    return render_completion(Assistant(reasoning=reasoning, content=text), vocabulary)


def weather_call(vocabulary: Vocabulary) -> list[int]:
    call = ToolCall(name="get_weather", arguments='{"city":"Paris"}')
    return render_completion(Assistant(reasoning="Ask.", calls=(call,)), vocabulary)


def header(vocabulary: Vocabulary) -> list[int]:
    return answer(vocabulary, "x", None)[:-2]


async def test_a_whole_answer(api: Api, vocabulary: Vocabulary) -> None:
    asked = api.ask()
    stream = await api.engine.next_stream()
    tokens = answer(vocabulary, "Hello 😀")
    stream.give(tokens, finish="stop", cached_tokens=32)
    response = await asked
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "openai/gpt-oss-120b"
    (choice,) = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello 😀",
        "refusal": None,
        "reasoning": "Hm.",
        "reasoning_content": "Hm.",
    }
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": len(stream.prompt),
        "completion_tokens": len(tokens),
        "total_tokens": len(stream.prompt) + len(tokens),
        "prompt_tokens_details": {"cached_tokens": 32},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


async def test_a_stream_has_a_role_deltas_a_reason_and_done(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(stream=True)
    stream = await api.engine.next_stream()
    for token in answer(vocabulary, "Hello 😀")[:-1]:
        stream.give([token])
        await asyncio.sleep(0)
    stream.give(answer(vocabulary, "x")[-1:], finish="stop")
    response = await asked
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = sse_events(response.text)
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello 😀"
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "Hm."
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in deltas)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert deltas[-1] == {}


async def test_usage_comes_in_one_more_chunk_without_choices(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(stream=True, stream_options={"include_usage": True})
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "Hi"), finish="stop")
    *chunks, last, done = sse_events((await asked).text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == len(stream.prompt)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)


async def test_a_tool_call_is_streamed_with_id_and_name_once(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(stream=True, tools=[WEATHER])
    stream = await api.engine.next_stream()
    for token in weather_call(vocabulary)[:-1]:
        stream.give([token])
        await asyncio.sleep(0)
    stream.give(weather_call(vocabulary)[-1:], finish="stop")
    *chunks, _ = sse_events((await asked).text)
    calls = [
        chunk["choices"][0]["delta"]["tool_calls"][0]
        for chunk in chunks
        if "tool_calls" in chunk["choices"][0]["delta"]
    ]
    assert calls[0]["type"] == "function"
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city":"Paris"}'
    assert len(calls) > 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_tool_call_in_a_whole_answer(api: Api, vocabulary: Vocabulary) -> None:
    asked = api.ask(tools=[WEATHER])
    stream = await api.engine.next_stream()
    stream.give(weather_call(vocabulary), finish="stop")
    choice = (await asked).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"Paris"}'}


async def test_an_answer_cut_off_in_its_reasoning_has_no_content(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(max_tokens=4)
    stream = await api.engine.next_stream()
    stream.give(answer(vocabulary, "x", "Long thoughts")[:4], finish="length")
    choice = (await asked).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning"]


async def test_logprobs_have_text_bytes_and_alternatives(api: Api, vocabulary: Vocabulary) -> None:
    asked = api.ask(logprobs=True, top_logprobs=2)
    stream = await api.engine.next_stream()
    assert stream.samplings[0].logprobs == 2
    tokens = answer(vocabulary, "Hi 🦩", None)
    entries = [Logprob(-0.25, [(token, -0.25), (0, float("-inf"))]) for token in tokens]
    stream.give(tokens, finish="stop", logprobs=entries)
    content = (await asked).json()["choices"][0]["logprobs"]["content"]
    assert content[0]["token"] == "Hi"
    assert content[0]["logprob"] == -0.25
    assert bytes(value for entry in content for value in entry["bytes"]) == "Hi 🦩".encode()
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.25, -9999.0]


async def test_several_choices_keep_apart_streamed_and_whole(
    api: Api, vocabulary: Vocabulary
) -> None:
    for number, streamed in enumerate((True, False)):
        asked = api.ask(n=2, stream=streamed, seed=7)
        stream = await api.engine.next_stream(number)
        assert [sampling.seed for sampling in stream.samplings] == [7, 8]
        stream.give(answer(vocabulary, "second"), choice=1, finish="stop")
        stream.give(answer(vocabulary, "first"), choice=0, finish="stop")
        text = (await asked).text
        contents = streamed_contents(text) if streamed else whole_contents((await asked).json())
        assert contents == {0: "first", 1: "second"}


def streamed_contents(text: str) -> dict[int, str]:
    contents: dict[int, str] = {}
    for chunk in sse_events(text)[:-1]:
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content", "")
            contents[choice["index"]] = contents.get(choice["index"], "") + piece
    return contents


def whole_contents(body: dict[str, Any]) -> dict[int, str]:
    return {choice["index"]: choice["message"]["content"] for choice in body["choices"]}


async def test_a_stop_string_is_cut(api: Api, vocabulary: Vocabulary) -> None:
    asked = api.ask(stop="wor")
    stream = await api.engine.next_stream()
    stream.give(header(vocabulary))
    stream.give(vocabulary.encode("Hello w"))
    await asyncio.sleep(0.01)
    stream.give(vocabulary.encode("orld"))
    choice = (await asked).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello ", "stop")


async def test_the_service_tier_is_answered_when_it_was_asked_for(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(service_tier="flex")
    (await api.engine.next_stream()).give(answer(vocabulary, "Hi"), finish="stop")
    assert (await asked).json()["service_tier"] == "default"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault("out_of_memory", "Out of memory."), 503, "engine_out_of_memory"),
        (Fault("internal", "It broke."), 500, "engine_error"),
        (Fault("invalid", "Not so."), 400, "invalid_value"),
    ],
)
async def test_a_failure_before_the_first_token_has_a_true_status(
    api: Api, streamed: bool, fault: Fault, status: int, code: str
) -> None:
    asked = api.ask(stream=streamed)
    stream = await api.engine.next_stream()
    stream.push(0, Output(1, [], "error", fault=fault))
    response = await asked
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers["content-type"] == "application/json"
    assert ("retry-after" in response.headers) == (status == 503)


async def test_a_failure_after_tokens_is_the_last_event_and_there_is_no_done(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask(stream=True)
    stream = await api.engine.next_stream()
    stream.give([*header(vocabulary), *vocabulary.encode("Hel")])
    await asyncio.sleep(0.02)
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    response = await asked
    assert response.status_code == 200
    events = sse_events(response.text)
    assert events[-1] == {
        "error": {
            "message": "The engine stopped.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
    assert "[DONE]" not in response.text
    assert all("error" not in event for event in events[:-1])


async def test_a_bug_behind_the_edge_shows_nothing_of_itself(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(api.engine, "open", broken)
    response = await api.ask()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_without_a_ready_engine_the_answer_is_503_with_a_time(start: Start) -> None:
    engine = FakeEngine()
    api = await start(engine)
    engine.enter(EngineState.BACKOFF)
    response = await api.ask()
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_unavailable"
    assert int(response.headers["retry-after"]) >= 1


async def test_no_token_in_time_is_504_before_the_headers(start: Start) -> None:
    api = await start(deadlines={"first_token_seconds": 0.05})
    response = await api.ask(stream=True)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert api.engine.opened[0].closed.is_set()


async def test_a_stall_after_tokens_ends_the_stream_with_an_error(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(deadlines={"stall_seconds": 0.05})
    asked = api.ask(stream=True)
    stream = await api.engine.next_stream()
    stream.give([*header(vocabulary), *vocabulary.encode("Hel")])
    events = sse_events((await asked).text)
    assert events[-1]["error"]["code"] == "deadline_exceeded"


async def test_a_client_can_lower_its_deadline(api: Api) -> None:
    response = await api.client.post(
        "/v1/chat/completions", json=chat_body(), headers={"x-request-timeout-ms": "50"}
    )
    assert response.status_code == 504
    response = await api.client.post(
        "/v1/chat/completions", json=chat_body(), headers={"x-request-timeout-ms": "soon"}
    )
    assert response.status_code == 400


async def test_a_full_line_is_503_and_the_deadline_in_it_too(start: Start) -> None:
    api = await start(
        admission={"max_running": 1, "max_waiting": 1}, deadlines={"queue_seconds": 0.2}
    )
    running = api.ask()
    await api.engine.next_stream()
    waiting = api.ask()
    await asyncio.sleep(0.05)
    # Refused before it is read: that it is nonsense is never seen.
    refused = await api.ask(messages="nonsense")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert "retry-after" in refused.headers
    late = await waiting
    assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
    assert len(api.engine.opened) == 1
    running.cancel()
