"""What the fields that choose tokens come to, in every protocol that has them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from serving.boundary.sampling import Sampling
from serving.engines.embedded.sampling import Sampler
from serving.engines.trtllm import sampling as trtllm
from serving.harmony.conversation import Assistant
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from serving.protocols.edge.sampling import make_sampling
from serving.protocols.edge.sampling_schema import SamplingFields
from tests.serving.protocols.edge.server import MODEL, Api

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PROTOCOLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {**CHAT, "max_tokens": 100}),
]


class Parameters:
    """TensorRT-LLM's library as far as parameters go: it keeps what it is given."""

    def sampling_params(self, **given: Any) -> dict[str, Any]:
        """Returns the parameters."""
        return given


def asked(**fields: Any) -> Sampling:
    return make_sampling(SamplingFields(**fields))


@pytest.mark.parametrize(("path", "fields"), PROTOCOLS)
@pytest.mark.parametrize("top_p", [0, 0.0, 1e-9])
async def test_top_p_0_is_greedy_in_every_protocol(
    api: Api, vocabulary: Vocabulary, path: str, fields: dict[str, Any], top_p: float
) -> None:
    body = {"model": MODEL, **fields, "top_p": top_p}
    sent = asyncio.create_task(api.client.post(path, json=body))
    stream = await api.engine.next_stream()
    stream.give(render_completion(Assistant(content="Hi"), vocabulary), finish="stop")
    response = await sent
    assert response.status_code == 200
    assert api.engine.opened[0].samplings[0].temperature == 0.0
    if path == "/v1/responses":  # says what was asked for
        assert (response.json()["temperature"], response.json()["top_p"]) == (1.0, top_p)


def test_top_p_0_gives_the_same_of_equally_likely_tokens_each_time() -> None:
    logits = torch.zeros(1, 64)
    sampler = Sampler(64)
    for seed in range(20):
        sampler.add(seed, asked(top_p=0, temperature=1.5, seed=seed), [])
        assert sampler.sample(logits, [seed])[0].token == 0


def test_top_p_0_is_greedy_on_tensorrt_llm() -> None:
    rules = trtllm.Rules(vocab_size=64, guided=False)
    given = trtllm.compose(asked(top_p=0, temperature=1.5), Parameters(), rules)  # type: ignore[arg-type]
    assert given["temperature"] == 0.0
    assert given["top_p"] > 0


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {**CHAT, "max_tokens": 9}),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 9, "stream": True}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 9}),
        ("/v1/completions", {"prompt": ["Hi", "there"], "max_tokens": 9}),
    ],
)
async def test_more_tokens_at_least_than_at_most_are_refused(
    api: Api, path: str, fields: dict[str, Any]
) -> None:
    response = await api.client.post(path, json={"model": MODEL, **fields, "min_tokens": 10})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("min_tokens", "invalid_value")
    assert "10" in error["message"]
    assert "9" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "most"),
    [("/v1/completions", {"prompt": "Hi"}, 16), ("/v1/chat/completions", CHAT, 100_000_000)],
)
async def test_the_most_that_a_client_does_not_say_counts_too(
    api: Api, path: str, fields: dict[str, Any], most: int
) -> None:
    response = await api.client.post(path, json={"model": MODEL, **fields, "min_tokens": most + 1})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "min_tokens"
