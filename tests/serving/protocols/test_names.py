"""The names under which a model is served: the operator's, else those of the checkpoint."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.app import create_app
from serving.boundary import engine
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.fleet.service import Service
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Settings
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, listening, until

SMALL = "openai/gpt-oss-20b"
USER = [{"role": "user", "content": "Hello"}]
GENERATING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello", "store": False},
    "/v1/messages": {"messages": USER, "max_tokens": 20},
}
COUNTING: dict[str, dict[str, Any]] = {
    "/v1/tokenize": {"prompt": "Hello"},
    "/v1/detokenize": {"tokens": [1]},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses/input_tokens": {"input": "Hello"},
    "/v1/responses/compact": {"input": "Hello"},
}


@pytest.fixture
def small(tmp_path: Path, ranks: Path) -> Path:
    """An engine of gpt-oss-20b as it was published."""
    script = Script(scenarios=(Scenario(steps=(Tokens(ids=(1,)),)),))
    replay_engine.write(tmp_path / "small", script, ranks=ranks)
    model = engine.Model(name="gpt-oss-20b", repository=SMALL, revision="1")
    manifest = msgspec.structs.replace(engine.read(tmp_path / "small"), model=model)
    (tmp_path / "small" / engine.MANIFEST_NAME).write_bytes(engine.encode(manifest))
    return tmp_path / "small"


@pytest.mark.parametrize("path", GENERATING)
async def test_the_engine_s_own_name_is_served_and_carried(
    start: Start, small: Path, vocabulary: Vocabulary, path: str
) -> None:
    api = await start(directory=small)
    body = {"model": SMALL, **GENERATING[path]}
    asked = asyncio.create_task(api.client.post(path, json=body))
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
    response = await asked
    assert (response.status_code, response.json()["model"]) == (200, SMALL)


@pytest.mark.parametrize("path", [*GENERATING, *COUNTING])
async def test_a_small_model_is_never_served_under_the_large_one_s_name(
    start: Start, small: Path, path: str
) -> None:
    api = await start(directory=small)
    body = {"model": MODEL, **GENERATING.get(path, COUNTING.get(path, {}))}
    response = await api.client.post(path, json=body)
    assert response.status_code == 404
    assert SMALL in response.text


async def test_lists_descriptions_and_metrics_have_the_engine_s_own_name(
    start: Start, small: Path
) -> None:
    api = await start(directory=small)
    listed = (await api.client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"]) for model in listed] == [(SMALL, SMALL)]
    assert (await api.client.get(f"/v1/models/{SMALL}")).status_code == 200
    assert (await api.client.get(f"/v1/models/{MODEL}")).status_code == 404
    document = (await api.client.get("/openapi.json")).json()
    assert document["info"]["title"] == SMALL
    assert f'"enum": ["{SMALL}"]' in json.dumps(document)
    assert f'model_name="{SMALL}"' in (await api.client.get("/metrics")).text


async def test_a_name_that_the_operator_gives_is_the_only_one(start: Start, small: Path) -> None:
    api = await start(directory=small, served_model_names=("mine",))
    listed = (await api.client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["mine"]
    assert 'model_name="mine"' in (await api.client.get("/metrics")).text
    refused = await api.client.post("/v1/tokenize", json={"model": SMALL, "prompt": "x"})
    assert refused.status_code == 404


def has_died(service: Service) -> bool:
    return not service.alive


async def test_until_the_engine_is_read_no_name_is_guessed(tmp_path: Path) -> None:
    """Here it never is; and what the operator has named is known without it."""
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"served_model_names": ("mine",)}, ["mine"]),
    ]
    for settings, found in cases:
        app = create_app(Settings(engine=str(tmp_path), log_level="error", **settings))
        async with (
            listening(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await until(functools.partial(has_died, app.state.service))
            listed = (await client.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == found
            status = (await client.get("/v1/models/other")).status_code
            assert status == (404 if found else 503)
            assert (await client.get("/openapi.json")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            for path, fields in (GENERATING | COUNTING).items():
                response = await client.post(path, json={"model": SMALL, **fields})
                assert response.status_code == 503, path
