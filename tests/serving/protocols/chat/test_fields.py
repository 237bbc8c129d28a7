"""Every field of the client's own type is honoured, accepted or refused, as docs/api.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import openai.types.chat.completion_create_params as specification
import pytest

from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.protocols.chat.schema import ChatRequest
from tests.serving.protocols.jobs import job_of, refusal

DOCUMENT = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
ROWS = re.findall(
    r"^\| (`[^|]+`) \| [^|]* \| (.+) \|$",
    DOCUMENT.split("## Fields of a chat request")[1].split("\n## ")[0],
    re.MULTILINE,
)
SAID = {name: said for names, said in ROWS for name in re.findall(r"`([a-z_]+)`", names)}
ACCEPTED = sorted(name for name, said in SAID.items() if said.startswith("Accepted"))
REFUSED = sorted(name for name, said in SAID.items() if said.startswith("Refused: "))
HONOURED = sorted(SAID.keys() - {*ACCEPTED, *REFUSED})
CLIENT = set(specification.CompletionCreateParamsBase.__annotations__) | {"stream"}

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True},
}
SAMPLES: dict[str, Any] = {
    "audio": {"format": "mp3", "voice": "alloy"},
    "frequency_penalty": 1.0,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "ignore_eos": True,
    "logit_bias": {"5": -100},
    "logprobs": True,
    "max_completion_tokens": 7,
    "max_tokens": 7,
    "messages": [{"role": "user", "content": "Something else"}],
    "metadata": {"key": "value"},
    "min_p": 0.1,
    "min_tokens": 3,
    "moderation": {"model": "x"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 1.0,
    "prompt_cache_key": "key",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "repetition_penalty": 1.1,
    "response_format": {"type": "json_object"},
    "safety_identifier": "id",
    "seed": 5,
    "service_tier": "flex",
    "stop": "END",
    "store": True,
    "temperature": 0,
    "tool_choice": "required",
    "tools": [TOOL],
    "top_k": 5,
    "top_logprobs": 2,
    "top_p": 0.5,
    "user": "somebody",
    "web_search_options": {},
}
"""A value of each field that makes a difference where the field does."""
NEEDS: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
}
ELSEWHERE = {
    "model": "one name, one model: test_edge",
    "stream": "how the answer is sent: test_chat",
    "stream_options": "how the answer is sent: test_chat",
}
ONLY = {"modalities": (["text"], ["text", "audio"]), "verbosity": ("medium", "low")}
"""Fields of which one value is taken and every other refused."""


def answer(job: Job) -> Job:
    """Returns what of a job is the model's business."""
    return msgspec.structs.replace(job, id="", grammar_param=None)


def test_the_table_has_the_fields_of_the_client_and_of_the_service() -> None:
    assert SAID.keys() >= CLIENT, "the client has new fields: honour or refuse them"
    assert SAID.keys() == ChatRequest.model_fields.keys()


def test_every_field_is_tried() -> None:
    assert SAID.keys() == SAMPLES.keys() | ELSEWHERE.keys() | ONLY.keys()


@pytest.mark.parametrize("name", [name for name in HONOURED if name in SAMPLES])
def test_an_honoured_field_makes_a_difference(binding: Backend, name: str) -> None:
    needs = NEEDS.get(name, {})
    without = job_of(binding, **needs)
    assert answer(job_of(binding, **needs, **{name: SAMPLES[name]})) != answer(without)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_accepted_field_makes_none(binding: Backend, name: str) -> None:
    needs = NEEDS.get(name, {})
    without = job_of(binding, **needs)
    assert answer(job_of(binding, **needs, **{name: SAMPLES[name]})) == answer(without)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_field_is_named(binding: Backend, name: str) -> None:
    assert refusal(binding, **{name: SAMPLES[name]}).param == name


@pytest.mark.parametrize(("name", "taken", "wrong"), [(n, *values) for n, values in ONLY.items()])
def test_a_field_of_one_value_refuses_the_others(
    binding: Backend, name: str, taken: Any, wrong: Any
) -> None:
    assert answer(job_of(binding, **{name: taken})) == answer(job_of(binding))
    assert refusal(binding, **{name: wrong}).param == name
