"""The list of models: names, context, what can be asked of them."""

from __future__ import annotations

import openai

from serving.boundary.lifecycle import EngineState
from tests.serving.protocols.conftest import Start
from tests.serving.protocols.edge.server import MODEL, Api


async def test_the_official_client_lists_and_retrieves(start: Start) -> None:
    api = await start(served_model_names=[MODEL, "gpt-oss"])
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{api.port}/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == [MODEL, "gpt-oss"]
        assert await client.models.retrieve("gpt-oss") == listed[1]
        assert await client.models.retrieve(MODEL) == listed[0]
        extra = listed[1].model_extra or {}
        assert extra["root"] == MODEL
        assert extra["max_model_len"] == extra["context_length"] == 131_072
        assert extra["type"] == "chat"


async def test_capabilities_are_those_of_the_engine_that_runs(api: Api) -> None:
    async def capabilities() -> dict[str, object]:
        answer = (await api.client.get(f"/v1/models/{MODEL}")).json()
        found: dict[str, object] = answer["capabilities"]
        return found

    running = await capabilities()
    assert running["tools"] is running["logprobs"] is True
    assert running["embeddings"] is running["vision"] is False
    assert running["reasoning_efforts"] == ["low", "medium", "high"]
    api.engine.enter(EngineState.BACKOFF)
    down = await capabilities()
    assert down["tools"] is True
    assert down["logprobs"] is down["structured_outputs"] is False


async def test_a_model_that_is_not_here(api: Api) -> None:
    response = await api.client.get("/v1/models/gpt-5")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
