"""From tool choice, strict functions and response formats to the grammar of a job."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.structural_tag import ANY_OBJECT, structural_tag
from serving.settings import Limits, Settings
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.jobs import job_of, refusal, refusal_under

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
UNSURE = {"type": "object", "properties": {"city": {"not": {"type": "null"}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


STRICT = tool(parameters=CITY, strict=True)
LOOSE = tool("g", parameters=CITY)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


F_STRICT = ToolForm(name="f", schema=CITY)
G_FREE = ToolForm(name="g", schema=None)
G_HELD = ToolForm(name="g", schema=CITY)

BOUND: list[tuple[dict[str, Any], Constraint, str]] = [
    ({"response_format": FORMAT}, Constraint(schema=CITY), "response_format"),
    (
        {"response_format": {"type": "json_object"}},
        Constraint(schema=ANY_OBJECT),
        "response_format",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        Constraint(schema=ANY_OBJECT),
        "response_format",
    ),
    (
        {"response_format": FORMAT, "tools": [LOOSE]},
        Constraint(tools=(G_FREE,), schema=CITY),
        "response_format",
    ),
    (
        {"tools": [STRICT, LOOSE]},
        Constraint(tools=(F_STRICT, G_FREE)),
        "tools[0].function.strict",
    ),
    (
        {"tools": [STRICT, LOOSE], "tool_choice": "required"},
        Constraint(tools=(F_STRICT, G_HELD), must_call=True),
        "tool_choice",
    ),
    (
        {"tools": [STRICT, LOOSE], "tool_choice": named("g")},
        Constraint(tools=(G_HELD,), must_call=True),
        "tool_choice",
    ),
    (
        {"tools": [tool("h", parameters=UNSURE), tool("i")], "tool_choice": "required"},
        Constraint(
            tools=(
                ToolForm(name="h", schema=ANY_OBJECT),
                ToolForm(name="i", schema={"type": "object", "properties": {}}),
            ),
            must_call=True,
        ),
        "tool_choice",
    ),
    (
        {"tools": [STRICT, LOOSE], "tool_choice": allowed("auto", "g")},
        Constraint(tools=(G_FREE,), limits_tools=True),
        "tool_choice",
    ),
    (
        {"tools": [STRICT, LOOSE], "tool_choice": allowed("required", "f", "g")},
        Constraint(tools=(F_STRICT, G_HELD), must_call=True, limits_tools=True),
        "tool_choice",
    ),
    (
        {"tools": [STRICT], "tool_choice": "none", "response_format": FORMAT},
        Constraint(schema=CITY),
        "response_format",
    ),
]


@pytest.mark.parametrize(
    ("fields", "constraint", "param"), BOUND, ids=[json.dumps(case[0])[:90] for case in BOUND]
)
def test_the_grammar_says_what_the_fields_ask(
    binding: Backend, fields: dict[str, Any], constraint: Constraint, param: str
) -> None:
    job = job_of(binding, **fields)
    assert job.sampling.grammar == structural_tag(constraint)
    assert job.grammar_param == param


FREE: list[dict[str, Any]] = [
    {},
    {"response_format": {"type": "text"}},
    {"tools": [LOOSE], "tool_choice": "auto"},
    {"tools": [STRICT], "tool_choice": "none"},
]


@pytest.mark.parametrize("fields", FREE, ids=str)
def test_what_asks_for_nothing_is_free(binding: Backend, fields: dict[str, Any]) -> None:
    job = job_of(binding, **fields)
    assert job.sampling.grammar is None
    assert job.grammar_param is None


SCHEMA = "response_format.json_schema.schema"
REFUSED: list[tuple[dict[str, Any], str, ErrorKind]] = [
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": UNSURE},
            }
        },
        f"{SCHEMA}.properties.city.not",
        ErrorKind.UNSUPPORTED,
    ),
    (
        {"tools": [LOOSE, tool(parameters={"type": "wat"}, strict=True)]},
        "tools[1].function.parameters.type",
        ErrorKind.INVALID_VALUE,
    ),
    ({"response_format": {"type": "json_schema"}}, "response_format", ErrorKind.INVALID_VALUE),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        ErrorKind.INVALID_VALUE,
    ),
    (
        {"tools": [LOOSE], "tool_choice": named("f")},
        "tool_choice.function.name",
        ErrorKind.INVALID_VALUE,
    ),
    (
        {"tools": [LOOSE], "tool_choice": allowed("auto", "g", "f")},
        "tool_choice.allowed_tools.tools[1].function.name",
        ErrorKind.INVALID_VALUE,
    ),
    ({"tool_choice": "required"}, "tool_choice", ErrorKind.INVALID_VALUE),
    ({"tools": [LOOSE], "tool_choice": {"type": "x"}}, "tool_choice", ErrorKind.INVALID_VALUE),
    ({"response_format": FORMAT, "ignore_eos": True}, "ignore_eos", ErrorKind.INVALID_VALUE),
    ({"response_format": FORMAT, "min_tokens": 2}, "min_tokens", ErrorKind.INVALID_VALUE),
]


@pytest.mark.parametrize(
    ("fields", "param", "kind"), REFUSED, ids=[json.dumps(case[0])[:90] for case in REFUSED]
)
def test_it_is_refused_and_the_place_named(
    binding: Backend, fields: dict[str, Any], param: str, kind: ErrorKind
) -> None:
    error = refusal(binding, **fields)
    assert (error.param, error.kind) == (param, kind)


def test_a_schema_has_limits(binding: Backend) -> None:
    settings = Settings(limits=Limits(schema_depth=1))
    error = refusal_under(settings, binding, response_format=FORMAT)
    assert error.param == f"{SCHEMA}.properties.city"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"tools": [STRICT]},
        {"tools": [LOOSE], "tool_choice": "required"},
    ],
)
def test_without_the_engine_or_the_compiler_it_is_refused(
    backend: Backend, binding: Backend, fields: dict[str, Any]
) -> None:
    assert refusal(backend, **fields).kind is ErrorKind.UNSUPPORTED
    engine = binding.pipeline.engine
    assert isinstance(engine, FakeEngine)
    engine.facts = msgspec.structs.replace(engine.facts, capabilities=())
    assert refusal(binding, **fields).kind is ErrorKind.UNSUPPORTED


def test_the_model_is_shown_the_schema(binding: Backend) -> None:
    job = job_of(binding, response_format=FORMAT)
    shown = binding.vocabulary.decode(job.prompt)
    assert '# Response Formats\n\n## place\n\n{"type":"object"' in shown
    assert "# Response Formats" not in binding.vocabulary.decode(job_of(binding).prompt)


async def test_a_grammar_that_does_not_compile_is_told_before_anything_runs(
    binding: Backend,
) -> None:
    events = binding.pipeline.run(job_of(binding, response_format=FORMAT))
    with pytest.raises(ServingError) as refused:
        await anext(events)
    assert refused.value.param == "response_format"
    engine = binding.pipeline.engine
    assert isinstance(engine, FakeEngine)
    assert engine.opened == []
