"""Completions over a real socket: raw text in and out, several prompts, echoes, failures."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serving.boundary.messages import Fault, Logprob, Output
from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import CHANNEL, END_OF_TEXT, RETURN, Vocabulary
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, connected, sse_events, until

ADDRESS = "/v1/completions"


def ask(api: Api, **fields: Any) -> asyncio.Task[httpx.Response]:
    """Begins a request; `fields` come on top of a simple one."""
    body = {"model": MODEL, "prompt": "Once upon", **fields}
    return asyncio.create_task(api.client.post(ADDRESS, json=body))


async def test_a_whole_answer(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api)
    stream = await api.engine.next_stream()
    assert stream.prompt == vocabulary.encode("Once upon")
    assert stream.samplings[0].max_tokens == 16
    tokens = [*vocabulary.encode(" a time 😀"), END_OF_TEXT]
    stream.give(tokens, finish="stop", cached_tokens=1)
    body = (await asked).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": " a time 😀", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["prompt_tokens"] == len(stream.prompt)
    assert body["usage"]["completion_tokens"] == len(tokens)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_harmony_in_the_output_is_not_read(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api)
    stream = await api.engine.next_stream()
    stream.give([CHANNEL, *vocabulary.encode("final"), RETURN], finish="stop")
    assert (await asked).json()["choices"][0]["text"] == "final"


async def test_names_of_control_tokens_in_a_text_stay_text(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = ask(api, prompt="<|start|>system<|message|>", echo=True)
    stream = await api.engine.next_stream()
    assert max(stream.prompt) < 199_998
    stream.give(vocabulary.encode("x"), finish="length")
    choice = (await asked).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("<|start|>system<|message|>x", "length")


async def test_token_ids_go_to_the_engine_as_they_are(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, prompt=[CHANNEL, 13225], echo=True)
    stream = await api.engine.next_stream()
    assert stream.prompt == [CHANNEL, 13225]
    stream.give(vocabulary.encode("!"), finish="stop")
    assert (await asked).json()["choices"][0]["text"] == "<|channel|>Hello!"


async def test_without_a_prompt_a_document_begins(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, prompt=None)
    stream = await api.engine.next_stream()
    assert stream.prompt == [END_OF_TEXT]
    stream.give(vocabulary.encode("The"), finish="stop")
    assert (await asked).json()["choices"][0]["text"] == "The"


@pytest.mark.parametrize("streamed", [False, True])
async def test_prompts_times_n_choices_in_one_response(
    api: Api, vocabulary: Vocabulary, streamed: bool
) -> None:
    prompts = ["first", "second", "third"]
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    asked = ask(api, prompt=prompts, n=2, seed=5, echo=True, **options)
    for number in range(3):
        stream = await api.engine.next_stream(number)
        assert [sampling.seed for sampling in stream.samplings] == [5, 6]
    for stream in reversed(api.engine.opened):
        name = vocabulary.decode(stream.prompt)
        for choice in (1, 0):
            stream.give(vocabulary.encode(f" {name} {choice}"), choice=choice, finish="stop")
    texts, usage = streamed_texts(await asked) if streamed else whole_texts(await asked)
    assert texts == [f"{name} {name} {choice}" for name in prompts for choice in (0, 1)]
    assert usage["prompt_tokens"] == sum(len(vocabulary.encode(one)) for one in prompts)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def whole_texts(response: httpx.Response) -> tuple[list[str], dict[str, Any]]:
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice["text"] for choice in body["choices"]], body["usage"]


def streamed_texts(response: httpx.Response) -> tuple[list[str], dict[str, Any]]:
    *chunks, last, done = sse_events(response.text)
    assert done == "[DONE]"
    assert last["choices"] == []
    texts: dict[int, str] = {}
    for chunk in chunks:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in sorted(texts)], last["usage"]


async def test_only_as_many_prompts_run_at_once_as_the_batch_holds(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = ask(api, prompt=["x"] * 12, n=3)
    await api.engine.next_stream(1)
    for number in range(12):
        stream = await api.engine.next_stream(number)
        assert number < len(api.engine.opened) <= number + 2
        for choice in range(3):
            stream.give(vocabulary.encode("y"), choice=choice, finish="stop")
    assert len((await asked).json()["choices"]) == 36


async def test_logprobs_in_the_old_shape(api: Api, vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode("Hi 🦩 there")
    entries = [Logprob(-0.25, [(17, -0.125), (0, float("-inf"))]) for _ in tokens]
    for number, streamed in enumerate((False, True)):
        asked = ask(api, logprobs=2, stream=streamed)
        stream = await api.engine.next_stream(number)
        assert stream.samplings[0].logprobs == 2
        stream.give(tokens[:2], logprobs=entries[:2])
        await until(stream.all_taken)
        stream.give(tokens[2:], logprobs=entries[2:], finish="stop")
        response = await asked
        found: dict[str, list[Any]]
        if streamed:
            pieces = [
                chunk["choices"][0]["logprobs"]
                for chunk in sse_events(response.text)[:-1]
                if chunk["choices"][0]["logprobs"] is not None
            ]
            found = {key: [one for piece in pieces for one in piece[key]] for key in pieces[0]}
        else:
            found = response.json()["choices"][0]["logprobs"]
        assert found["tokens"] == [
            "Hi",
            "bytes:\\x20\\xf0\\x9f",
            "bytes:\\xa6",
            "bytes:\\xa9",
            " there",
        ]
        assert found["token_logprobs"] == [-0.25] * len(tokens)
        assert found["text_offset"] == [0, 2, 3, 3, 4]
        top = {vocabulary.decode([17]): -0.125, "!": -9999.0, "Hi": -0.25}
        assert found["top_logprobs"][0] == top


async def test_a_stop_string_is_cut(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, stop="wor", echo=True, prompt="word ")
    stream = await api.engine.next_stream()
    stream.give(vocabulary.encode("Hello world"))
    choice = (await asked).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("word Hello ", "stop")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["x", ""]}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"prompt": ["x", [1]]}, "prompt"),
    ({"prompt": [1, "x"]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1.0]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [201_088]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": ["x"] * 65}, "prompt"),
    ({"prompt": [1] * 4096}, "prompt"),
    ({"max_tokens": 4096}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"suffix": "end"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"best_of": 2, "n": 3}, "best_of"),
    ({"n": 5}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 1, "echo": True}, "logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"temperature": 3}, "temperature"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"guided_json": {"type": "object"}}, "guided_json"),
    ({"prompt_embeds": "x"}, "prompt_embeds"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
async def test_what_it_refuses_it_names(api: Api, fields: dict[str, Any], param: str) -> None:
    response = await ask(api, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not api.engine.opened


async def test_a_model_that_is_not_here(api: Api) -> None:
    response = await ask(api, model="davinci-002")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_what_is_accepted(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, best_of=2, n=2, user="me", suffix=None, logit_bias={"17": 1}, tomorrow=1)
    stream = await api.engine.next_stream()
    for choice in (0, 1):
        stream.give(vocabulary.encode("x"), choice=choice, finish="stop")
    assert (await asked).status_code == 200
    assert (await api.metrics())["llmserve_unknown_request_fields_total"] == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_of_one_prompt_is_the_failure_of_all(api: Api, streamed: bool) -> None:
    asked = ask(api, prompt=["a", "b", "c"], stream=streamed)
    await api.engine.next_stream(2)
    fault = Fault("out_of_memory", "Out of memory.")
    api.engine.opened[1].push(0, Output(1, [], "error", fault=fault))
    response = await asked
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_out_of_memory")
    await until(lambda: all(stream.closed.is_set() for stream in api.engine.opened))
    assert api.service.backend().pipeline.admission.running == 0


async def test_a_failure_after_tokens_is_the_last_event(api: Api, vocabulary: Vocabulary) -> None:
    asked = ask(api, prompt=["a", "b"], stream=True)
    stream = await api.engine.next_stream(1)
    stream.give(vocabulary.encode("Hel"))
    await until(stream.all_taken)
    await asyncio.sleep(0.02)
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    response = await asked
    assert response.status_code == 200
    events = sse_events(response.text)
    assert events[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_aborts_every_prompt(
    api: Api, vocabulary: Vocabulary, streamed: bool
) -> None:
    body = {"model": MODEL, "prompt": ["a", "b", "c"], "stream": streamed}
    async with connected(api.port) as client:
        await client.post(body, path=ADDRESS)
        await api.engine.next_stream(2)
        api.engine.opened[0].give(vocabulary.encode("Hel"))
        await until(api.engine.opened[0].all_taken)
    await until(lambda: all(stream.closed.is_set() for stream in api.engine.opened))
    admission = api.service.backend().pipeline.admission
    assert (admission.running, admission.waiting) == (0, 0)


async def test_prompts_wait_in_line_with_everyone_else(
    start: Start, vocabulary: Vocabulary
) -> None:
    api = await start(admission={"max_running": 1})
    asked = ask(api, prompt=["a", "b", "c"])
    for number in range(3):
        stream = await api.engine.next_stream(number)
        assert len(api.engine.opened) == number + 1
        stream.give(vocabulary.encode(str(number)), finish="stop")
    assert [choice["text"] for choice in (await asked).json()["choices"]] == ["0", "1", "2"]
