"""The edge: request ids, unknown addresses, limits, probes, models, metrics, the log."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from serving.boundary.lifecycle import EngineState
from serving.generation import prepare as preparation
from serving.harmony.conversation import Assistant, Conversation
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import Api, chat_body, connected, until

ADDRESSES = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs.json"),
    ("GET", "/swagger.json"),
    ("GET", "/schema.json"),
    ("GET", "/v1"),
    ("GET", "//v1/models"),
    ("GET", "/v1/models/"),
    ("GET", "/v1/../metrics"),
    ("POST", "/v1/engines"),
    ("POST", "/tokenize"),
    ("POST", "/pause"),
    ("POST", "/update_weights"),
    ("POST", "/v1/chat/completions/"),
    ("GET", "/static_content/x"),
    ("DELETE", "/admin"),
]


@pytest.mark.parametrize("sign", ["%00", "%0a", "%0d%0a", "%1b", "%7f", "%c2%85", "%e2%80%a8"])
@pytest.mark.parametrize(
    "place", ["/{}", "/v1/models{}", "/v1/{}models", "/livez{}", "/v1/responses/{}"]
)
async def test_an_address_with_a_control_character_is_404_in_the_api_s_shape(
    api: Api, sign: str, place: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await api.client.request(method, place.format(sign))
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"
        assert response.headers["x-request-id"]
    response = await api.client.post(f"/v1/messages/count_tokens{sign}")
    assert (response.status_code, response.json()["type"]) == (404, "error")


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_unknown_addresses_are_404_in_openai_s_shape(
    api: Api, method: str, path: str
) -> None:
    async with connected(api.port) as client:
        client.writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        status, headers, body = await client.response()
    assert status == 404
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]


async def test_a_wrong_method_is_405_and_says_which_are_right(api: Api) -> None:
    for method, path, allowed in [
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/openai/gpt-oss-120b", "GET, HEAD"),
    ]:
        response = await api.client.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == allowed
        assert response.json()["error"]["code"] == "method_not_allowed"


async def test_every_response_has_a_request_id(api: Api, vocabulary: Vocabulary) -> None:
    ids = set()
    for method, path in [("GET", "/health"), ("GET", "/no"), ("POST", "/v1/chat/completions")]:
        ids.add((await api.client.request(method, path)).headers["x-request-id"])
    asked = api.ask(stream=True)
    tokens = render_completion(Assistant(content="Hi"), vocabulary)
    (await api.engine.next_stream()).give(tokens, finish="stop")
    ids.add((await asked).headers["x-request-id"])
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2:3/4", True), ("x" * 129, False), ("a b", False), ("é", False)]
)
async def test_a_plain_request_id_is_echoed_and_another_replaced(
    api: Api, sent: str, kept: bool
) -> None:
    response = await api.client.get("/v1/models", headers=[(b"x-request-id", sent.encode())])
    assert (response.headers["x-request-id"] == sent) is kept


async def test_a_body_that_is_too_large_is_413_with_a_length_and_without(start: Start) -> None:
    api = await start(limits={"body_bytes": 2000})

    async def pieces() -> Any:
        for _ in range(30):
            yield b" " * 100

    for content in (b" " * 2001, pieces()):
        response = await api.client.post(
            "/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


async def test_a_body_that_never_ends_is_408(start: Start) -> None:
    api = await start(deadlines={"body_seconds": 0.1})
    async with connected(api.port) as client:
        client.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        )
        status, _, body = await client.response()
    assert status == 408
    assert json.loads(body)["error"]["code"] == "request_timeout"


async def test_a_client_that_leaves_within_its_body_is_recorded_as_gone(api: Api) -> None:
    async with connected(api.port) as client:
        client.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        )
        await client.writer.drain()
        await asyncio.sleep(0.05)
    name = 'llmserve_client_aborts_total{phase="queue"}'
    for _ in range(100):
        if (await api.metrics()).get(name) == 1.0:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(name)


async def test_headers_are_bounded_in_number_and_size(start: Start) -> None:
    api = await start(limits={"header_bytes": 1000, "header_fields": 20})
    many = await api.client.get("/v1/models", headers={f"x-{i}": "1" for i in range(20)})
    large = await api.client.get("/v1/models", headers={"x-large": "1" * 1000})
    for response in (many, large):
        assert response.status_code == 431
        assert response.json()["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"{}", 415),
        ("application/vnd.bentoml+pickle", b"\x80\x04.", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/json", b"\xff", 400),
        ("application/json", b"[1]", 400),
        ("application/json", b"{}", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'{"a":' * 40 + b"1" + b"}" * 40, 400),
    ],
)
async def test_bodies_that_are_no_requests(
    api: Api, content_type: str, body: bytes, status: int
) -> None:
    response = await api.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": content_type}
    )
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_large_prompt_is_encoded_beside_the_event_loop(
    start: Start, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def watched(conversation: Conversation, vocabulary: Vocabulary) -> list[int]:
        threads.append(threading.get_ident())
        return render(conversation, vocabulary)

    monkeypatch.setattr(preparation, "render", watched)
    api = await start(FakeEngine(max_seq_len=2_000_000))
    for number, times in enumerate((1, 20_000)):
        text = "A sentence of several words. " * times
        asked = api.ask(messages=[{"role": "user", "content": text}], max_tokens=5)
        stream = await api.engine.next_stream(number)
        stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
        assert (await asked).status_code == 200
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()


async def test_probes_follow_the_engine(start: Start) -> None:
    engine = FakeEngine()
    api = await start(engine)

    async def statuses() -> list[int]:
        paths = ("/livez", "/readyz", "/health")
        return [(await api.client.get(path)).status_code for path in paths]

    assert await statuses() == [200, 200, 200]
    engine.enter(EngineState.LOST)
    assert await statuses() == [200, 503, 503]
    engine.enter(EngineState.FAILED)
    engine.alive = False
    assert await statuses() == [503, 503, 503]
    engine.alive = True
    engine.enter(EngineState.READY)
    assert await statuses() == [200, 200, 200]


async def test_models_are_listed_and_found_by_any_of_their_names(start: Start) -> None:
    api = await start(served_model_names=("openai/gpt-oss-120b", "gpt-oss"))
    listed = (await api.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["openai/gpt-oss-120b", "gpt-oss"]
    model = (await api.client.get("/v1/models/openai/gpt-oss-120b")).json()
    assert model["object"] == "model"
    assert model["max_model_len"] == 131_072
    assert model["engine"]["stand_in"] is True
    missing = await api.client.get("/v1/models/gpt-5")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_the_metrics_page_counts_requests_and_shows_the_engine(
    api: Api, vocabulary: Vocabulary
) -> None:
    asked = api.ask()
    stream = await api.engine.next_stream()
    tokens = render_completion(Assistant(content="Hi"), vocabulary)
    stream.give(tokens, finish="stop")
    await asked
    await api.ask(temperature=5)
    await api.client.get("/no/such/place")
    metrics = await api.metrics()
    engine = 'model_name="openai/gpt-oss-120b"'
    named = f'engine_type="replay",{engine}'
    chat = 'route="chat.completions"'
    assert metrics[f"trtllm_generation_tokens_total{{{named}}}"] == len(tokens)
    assert metrics[f"trtllm_prompt_tokens_total{{{named}}}"] == len(stream.prompt)
    assert metrics[f"trtllm_time_to_first_token_seconds_count{{{named}}}"] == 1
    assert metrics[f"trtllm_e2e_request_latency_seconds_count{{{named}}}"] == 1
    assert metrics[f"trtllm_num_requests_running{{{named}}}"] == 2
    assert metrics[f"trtllm_kv_cache_utilization{{{named}}}"] == 0.25
    assert metrics[f'llmserve_requests_total{{code="",lane="p1",outcome="ok",{chat}}}'] == 1
    refused = f'llmserve_requests_total{{code="invalid_value",lane="",outcome="error",{chat}}}'
    assert metrics[refused] == 1
    assert metrics['llmserve_engine_state{state="ready"}'] == 1


async def test_what_clients_choose_makes_no_new_series(api: Api) -> None:
    await api.client.get("/path/0")
    await api.ask(model="model-0")
    before = set(await api.metrics())
    for number in range(1, 50):
        await api.client.get(f"/path/{number}")
        await api.ask(model=f"model-{number}")
    assert set(await api.metrics()) == before


async def test_one_line_a_request_and_none_of_its_words(
    start: Start, vocabulary: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    api = await start(log_level="info")
    canary = "tangerine"
    asked = api.ask(
        messages=[{"role": "user", "content": canary}], user=canary, metadata={canary: canary}
    )
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content=canary), vocabulary), finish="stop")
    request_id = (await asked).headers["x-request-id"]
    await api.ask(model=canary)
    await api.client.get(f"/{canary}?{canary}")
    await api.client.get("/readyz")
    logged = capsys.readouterr().err
    lines = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 3
    assert canary not in logged
    (line,) = [line for line in requests if line["request_id"] == request_id]
    assert (line["outcome"], line["finish_reasons"]) == ("ok", ["stop"])
    assert line["completion_tokens"] > 0


async def test_unknown_fields_are_counted(api: Api, vocabulary: Vocabulary) -> None:
    asked = api.ask(tomorrow=1, after=2)
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
    await asked
    assert (await api.metrics())["llmserve_unknown_request_fields_total"] == 2


async def test_while_the_engine_loads_requests_are_503_and_bad_ones_400(start: Start) -> None:
    engine = FakeEngine()
    api = await start(engine, ready=False)
    await until(lambda: api.service.ready)
    engine.enter(EngineState.STARTING)
    assert (await api.ask()).status_code == 503
    response = await api.client.post("/v1/chat/completions", json={**chat_body(), "n": 0})
    assert response.status_code == 400
