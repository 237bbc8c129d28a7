"""From an Anthropic request's tool choice, strict tools and format to the grammar of a job."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.pipeline import Pipeline
from serving.generation.prepare import prepare
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.structural_tag import structural_tag
from serving.protocols.edge.body import decode
from serving.protocols.messages.request import generation_request
from serving.protocols.messages.schema import MessagesRequest
from serving.settings import Settings
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.jobs import INFO

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
ONE: dict[str, Any] = {"name": "one", "input_schema": CITY}
TWO: dict[str, Any] = {"name": "two", "input_schema": {"not": {}}}
FORMAT = {"format": {"type": "json_schema", "schema": CITY}}
ANY_OBJECT = {"type": "object", "additionalProperties": True}


@pytest.fixture
def binding(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend that can hold answers to a grammar."""
    engine = backend.pipeline.engine
    assert isinstance(engine, FakeEngine)
    capabilities = (*engine.facts.capabilities, "grammar")
    engine.facts = msgspec.structs.replace(engine.facts, capabilities=capabilities)
    monkeypatch.setattr(Pipeline, "constrains", property(lambda self: True))
    return backend


def job_of(backend: Backend, **fields: Any) -> Job:
    under = Settings()
    user = {"role": "user", "content": "Hello"}
    body = {"model": MODEL, "max_tokens": 10, "messages": [user], **fields}
    request = decode(json.dumps(body).encode(), MessagesRequest, under.limits)
    return prepare(generation_request(request, INFO), backend, under)


def form(name: str, schema: dict[str, Any] | None) -> ToolForm:
    return ToolForm(name=name, schema=schema)


BOUND: list[tuple[dict[str, Any], Constraint, str]] = [
    (
        {"tools": [ONE, TWO], "tool_choice": {"type": "any"}},
        Constraint(tools=(form("one", CITY), form("two", ANY_OBJECT)), must_call=True),
        "tool_choice",
    ),
    (
        {"tools": [ONE, TWO], "tool_choice": {"type": "tool", "name": "one"}},
        Constraint(tools=(form("one", CITY),), must_call=True),
        "tool_choice",
    ),
    (
        {"tools": [{**ONE, "strict": True}, TWO]},
        Constraint(tools=(form("one", CITY), form("two", None))),
        "tools[0].strict",
    ),
    ({"output_config": FORMAT}, Constraint(schema=CITY), "output_config.format"),
]


@pytest.mark.parametrize(("fields", "constraint", "param"), BOUND)
def test_the_grammar_says_what_the_fields_ask(
    binding: Backend, fields: dict[str, Any], constraint: Constraint, param: str
) -> None:
    job = job_of(binding, **fields)
    assert job.sampling.grammar == structural_tag(constraint)
    assert job.grammar_param == param


def test_the_model_is_told_the_schema_of_its_answer(binding: Backend) -> None:
    prompt = binding.vocabulary.decode(job_of(binding, output_config=FORMAT).prompt)
    assert "# Response Formats\n\n## output\n\n" in prompt


def test_what_binds_nothing_has_no_grammar(binding: Backend) -> None:
    none = {"tools": [{**ONE, "strict": True}], "tool_choice": {"type": "none"}}
    for fields in ({}, {"tools": [ONE]}, none):
        job = job_of(binding, **fields)
        assert (job.sampling.grammar, job.grammar_param) == (None, None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [ONE], "tool_choice": {"type": "tool", "name": "two"}}, "tool_choice.name"),
    ({"tools": [{**TWO, "strict": True}]}, "tools[0].input_schema.not"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
        "output_config.format.schema.not",
    ),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_cannot_be_held_is_named(binding: Backend, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ServingError) as refused:
        job_of(binding, **fields)
    assert refused.value.param == param


@pytest.mark.parametrize(("fields", "constraint", "param"), BOUND)
def test_without_constrained_decoding_it_is_refused_by_name(
    backend: Backend, fields: dict[str, Any], constraint: Constraint, param: str
) -> None:
    with pytest.raises(ServingError) as refused:
        job_of(backend, **fields)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.UNSUPPORTED, param)
