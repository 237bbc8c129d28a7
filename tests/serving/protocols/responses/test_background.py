"""Responses in the background: begun, read while they run, cancelled, lost with their process."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.telemetry.logs import make_logger
from tests.serving.fake_engine import FakeStream
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the responses are."""
    return tmp_path / "responses.sqlite3"


@pytest.fixture
async def api(start: Start, path: Path) -> Api:
    """A ready API with a store of its own."""
    return await start(store={"path": str(path)})


async def begin(api: Api, **fields: Any) -> tuple[str, FakeStream]:
    """Begins a response and returns its id and its engine's end."""
    number = len(api.engine.opened)
    body = {"model": MODEL, "input": "Hello", "background": True, **fields}
    begun = (await api.client.post("/v1/responses", json=body)).json()
    assert begun["status"] == "queued"
    assert begun["background"] is True
    return begun["id"], await api.engine.next_stream(number)


def tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    return render_completion(Assistant(reasoning="Hm.", content=text), vocabulary)


async def read(api: Api, response_id: str) -> dict[str, Any]:
    response = await api.client.get(f"/v1/responses/{response_id}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def ended(api: Api, response_id: str) -> dict[str, Any]:
    """Waits until a response has come to its end, and returns it."""
    for _ in range(2000):
        body = await read(api, response_id)
        if body["status"] not in ("queued", "in_progress"):
            return body
        await asyncio.sleep(0.005)
    raise TimeoutError("the response has not come to its end")


async def test_it_is_read_while_it_runs_and_when_it_has_ended(
    api: Api, vocabulary: Vocabulary
) -> None:
    response_id, stream = await begin(api)
    assert (await read(api, response_id))["status"] == "queued"
    answer = tokens(vocabulary, "Hello you")
    stream.give(answer[:-2])
    await until(stream.all_taken)
    running = await read(api, response_id)
    assert running["status"] == "in_progress"
    assert running["output"][1]["content"][0]["text"] == "Hello"
    body = {"model": MODEL, "input": "x", "previous_response_id": response_id}
    early = await api.client.post("/v1/responses", json=body)
    assert early.status_code == 400
    assert early.json()["error"]["param"] == "previous_response_id"
    stream.give(answer[-2:], finish="stop")
    done = await ended(api, response_id)
    assert done["status"] == "completed"
    assert done["output"][1]["content"][0]["text"] == "Hello you"
    assert done["usage"]["output_tokens"] == len(answer)
    cancelled = await api.client.post(f"/v1/responses/{response_id}/cancel")
    assert cancelled.json() == done
    metrics = await api.metrics()
    assert [
        value
        for name, value in metrics.items()
        if name.startswith("llmserve_requests_total")
        and 'outcome="ok"' in name
        and 'route="responses"' in name
    ] == [1]


async def test_cancelling_frees_the_engine_and_keeps_what_was_said(
    api: Api, vocabulary: Vocabulary
) -> None:
    response_id, stream = await begin(api)
    stream.give(tokens(vocabulary, "Hello you")[:-2])
    await until(stream.all_taken)
    cancelled = (await api.client.post(f"/v1/responses/{response_id}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"][1]["status"] == "incomplete"
    assert cancelled["output"][1]["content"][0]["text"] == "Hello"
    assert stream.closed.is_set()
    assert api.service.backend().pipeline.admission.running == 0
    assert await read(api, response_id) == cancelled


async def test_deleting_ends_what_runs(api: Api) -> None:
    response_id, stream = await begin(api)
    assert (await api.client.delete(f"/v1/responses/{response_id}")).status_code == 200
    assert stream.closed.is_set()
    assert (await api.client.get(f"/v1/responses/{response_id}")).status_code == 404


async def test_a_failure_is_read_as_one(api: Api) -> None:
    response_id, stream = await begin(api)
    stream.fail(ServingError(ErrorKind.ENGINE_UNAVAILABLE, "The engine stopped."))
    failed = await ended(api, response_id)
    assert failed["status"] == "failed"
    assert failed["error"]["message"] == "The engine stopped."


async def test_a_bug_is_read_as_a_failure_without_a_word_of_it(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it at once, and not when its task is thrown away."""
    log = io.StringIO()
    monkeypatch.setattr("serving.app.make_logger", lambda level: make_logger(level, log))
    api = await start(store={"path": str(path)}, log_level="error")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(api.engine, "open", broken)
    body = {"model": MODEL, "input": "Hello", "background": True}
    begun = (await api.client.post("/v1/responses", json=body)).json()
    failed = await ended(api, begun["id"])
    assert failed["status"] == "failed"
    assert "secret" not in failed["error"]["message"]
    await until(lambda: bool(log.getvalue()))
    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["event"], line["response_id"]) == ("failure", begun["id"])
    assert "/secret/path" in line["exception"]
    gc.collect()
    assert not caplog.records


async def test_what_is_not_stored_is_refused(api: Api) -> None:
    body = {"model": MODEL, "input": "Hello", "background": True, "store": False}
    response = await api.client.post("/v1/responses", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "store")


async def test_without_a_store_there_is_none(start: Start, tmp_path: Path) -> None:
    body = {"model": MODEL, "input": "Hello", "background": True}
    off = await start(store={"enabled": False})
    response = await off.client.post("/v1/responses", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "background")
    (tmp_path / "file").write_text("no directory")
    broken = await start(store={"path": str(tmp_path / "file" / "x")})
    refused = await broken.client.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert not broken.engine.opened


async def test_a_full_line_is_refused_at_once(start: Start, path: Path) -> None:
    api = await start(store={"path": str(path)}, admission={"max_running": 1, "max_waiting": 1})
    await begin(api)
    body = {"model": MODEL, "input": "Hello", "background": True}
    waiting = (await api.client.post("/v1/responses", json=body)).json()
    await until(lambda: api.service.backend().pipeline.admission.waiting == 1)
    refused: httpx.Response = await api.client.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    cancelled = await api.client.post(f"/v1/responses/{waiting['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
