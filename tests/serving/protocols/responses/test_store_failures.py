"""The API while its store is locked: what needs no store is answered, the rest is told so."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.telemetry.logs import make_logger
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api, eventually, sse_events
from tests.serving.store.shelf import locked

STORE = {"wait_seconds": 0.2, "bypass_seconds": 0.3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the responses are."""
    return tmp_path / "responses.sqlite3"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the service logs."""
    log = io.StringIO()
    monkeypatch.setattr("serving.app.make_logger", lambda level: make_logger(level, log))
    return log


@pytest.fixture
async def api(start: Start, path: Path, log: io.StringIO) -> Api:
    """A ready API with a store of its own, which gives up soon."""
    return await start(store={"path": str(path), **STORE}, log_level="warning")


async def respond(api: Api, vocabulary: Vocabulary, **fields: Any) -> httpx.Response:
    """Returns the answer to a request whose answer is `Hello you`."""
    number = len(api.engine.opened)
    body = {"model": MODEL, "input": "Hello", **fields}
    asked = asyncio.create_task(api.client.post("/v1/responses", json=body))
    stream = await api.engine.next_stream(number)
    answer = render_completion(Assistant(reasoning="Hm.", content="Hello you"), vocabulary)
    stream.give(answer, finish="stop")
    return await asked


def refused(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 503
        and answer.json()["error"]["code"] == "store_unavailable"
        and int(answer.headers["retry-after"]) >= 1
    )


async def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def ready(api: Api) -> tuple[int, dict[str, str]]:
    answer = await api.client.get("/readyz")
    return answer.status_code, answer.json()


async def store_is(api: Api, state: str) -> bool:
    return (await ready(api))[1]["store"] == state


async def completed(api: Api, name: str) -> bool:
    return bool((await api.client.get(f"/v1/responses/{name}")).json()["status"] == "completed")


async def counted(api: Api, body: dict[str, Any]) -> bool:
    return not refused(await api.client.post("/v1/responses/input_tokens", json=body))


async def test_answers_go_out_and_say_that_they_are_not_stored(
    api: Api, path: Path, vocabulary: Vocabulary, log: io.StringIO
) -> None:
    stored = (await respond(api, vocabulary)).json()
    assert stored["store"] is True
    with locked(path):
        began = time.monotonic()
        answers = [(await respond(api, vocabulary)).json() for _ in range(6)]
        assert time.monotonic() - began < 5 * STORE["wait_seconds"] + 2
        assert [answer["store"] for answer in answers] == [False] * 6
        assert answers[0]["output"][1]["content"][0]["text"] == "Hello you"
        assert await ready(api) == (
            200,
            {"status": "degraded", "engine": "ready", "store": "read_only"},
        )
        went_on = await respond(api, vocabulary, previous_response_id=stored["id"])
        assert (went_on.status_code, went_on.json()["store"]) == (200, False)
        streamed = sse_events(
            "".join(
                f"{line}\n\n"
                for line in (await respond(api, vocabulary, stream=True)).text.splitlines()
                if line.startswith("data: ")
            )
        )
        assert streamed[-1]["type"] == "response.completed"
        assert streamed[-1]["response"]["store"] is False
        assert (await api.client.get(f"/v1/responses/{stored['id']}")).status_code == 200
        metrics = await api.metrics()
        assert metrics['llmserve_store_works{way="write"}'] == 0
        assert metrics['llmserve_store_works{way="read"}'] == 1
        assert metrics['llmserve_store_failures_total{cause="locked",way="write"}'] >= 8
    await eventually(lambda: store_is(api, "ok"))
    assert (await ready(api))[1]["status"] == "ok"
    assert (await respond(api, vocabulary)).json()["store"] is True
    told = [line for line in await lines(log) if line["event"].startswith("store")]
    assert [(line["event"], line["level"]) for line in told] == [
        ("store left alone", "error"),
        ("store works again", "warning"),
    ]
    assert (told[0]["cause"], told[0]["way"]) == ("locked", "write")
    assert str(path) in told[0]["detail"]


async def test_what_needs_the_store_is_refused_with_a_time_to_come_back(
    api: Api, path: Path, vocabulary: Vocabulary
) -> None:
    stored = (await respond(api, vocabulary)).json()["id"]
    made = (await api.client.post("/v1/conversations", json={})).json()["id"]
    with locked(path):
        client, body = api.client, {"model": MODEL, "input": "Hello"}
        asked = [
            client.post("/v1/responses", json={**body, "background": True}),
            client.delete(f"/v1/responses/{stored}"),
            client.post("/v1/conversations", json={}),
            client.post(f"/v1/conversations/{made}", json={"metadata": {"a": "b"}}),
            client.post(
                f"/v1/conversations/{made}/items",
                json={"items": [{"role": "user", "content": "x"}]},
            ),
            client.delete(f"/v1/conversations/{made}"),
        ]
        assert all(map(refused, await asyncio.gather(*asked)))
        # Nothing is generated for a turn that could not be kept.
        turn = await client.post("/v1/responses", json={**body, "conversation": made})
        assert refused(turn)
        assert len(api.engine.opened) == 1
        assert (await client.get(f"/v1/conversations/{made}")).status_code == 200
        assert (await client.get(f"/v1/responses/{stored}/input_items")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200


async def test_a_turn_that_could_not_be_kept_names_no_conversation(
    api: Api, path: Path, vocabulary: Vocabulary
) -> None:
    made = (await api.client.post("/v1/conversations", json={})).json()["id"]
    number = len(api.engine.opened)
    body = {"model": MODEL, "input": "Hello", "conversation": made}
    asked = asyncio.create_task(api.client.post("/v1/responses", json=body))
    stream = await api.engine.next_stream(number)
    with locked(path):
        answer = render_completion(Assistant(content="Hello you"), vocabulary)
        stream.give(answer, finish="stop")
        told = (await asked).json()
    assert (told["status"], told["store"], told["conversation"]) == ("completed", False, None)


async def test_a_background_response_that_ends_meanwhile_is_read_and_saved_later(
    api: Api, path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.protocols.responses.background.SAVE_SECONDS", 0.1)
    body = {"model": MODEL, "input": "Hello", "background": True}
    name = (await api.client.post("/v1/responses", json=body)).json()["id"]
    stream = await api.engine.next_stream()
    with locked(path):
        answer = render_completion(Assistant(content="Hello you"), vocabulary)
        stream.give(answer, finish="stop")
        await eventually(lambda: completed(api, name))
        body = {"model": MODEL, "input": "x", "previous_response_id": name}
        assert refused(await api.client.post("/v1/responses", json=body))
        assert refused(await api.client.delete(f"/v1/responses/{name}"))
        cancelled = await api.client.post(f"/v1/responses/{name}/cancel")
        assert cancelled.json()["status"] == "completed"
    body = {"model": MODEL, "input": "x", "previous_response_id": name}
    await eventually(lambda: counted(api, body))  # as soon as it is stored, it can be continued
    read = (await api.client.get(f"/v1/responses/{name}")).json()
    assert read["output"][0]["content"][0]["text"] == "Hello you"
