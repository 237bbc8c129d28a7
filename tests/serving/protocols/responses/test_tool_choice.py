"""What a request lets the model call: functions and built-in tools, and what holds it to that."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from serving.boundary.lifecycle import EngineState
from serving.control.admission import Admission
from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.pipeline import Pipeline
from serving.generation.prepare import prepare, render_prompt
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.structural_tag import structural_tag
from serving.harmony.vocabulary import Vocabulary
from serving.protocols.edge.body import decode
from serving.protocols.responses.context import Context
from serving.protocols.responses.request import dialogue, generation_request
from serving.protocols.responses.schema import ResponsesRequest, TokensRequest
from serving.settings import Settings
from serving.telemetry.record import Record
from serving.tools.executors import Toolbox
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.jobs import INFO

PYTHON = {"type": "code_interpreter", "container": {"type": "auto"}}
BROWSER = {"type": "web_search"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "f", "parameters": CITY}
UNHELD = {"type": "function", "name": "g", "parameters": {"type": "object", "not": {}}}
FORMAT = {"format": {"type": "json_schema", "name": "place", "schema": CITY}}

BROWSING = ("browser.find", "browser.open", "browser.search")
FREE_F = ToolForm(name="f", schema=None)
HELD_F = ToolForm(name="f", schema=CITY)

SETTINGS = Settings.model_validate(
    {"tools": {"python": {"url": "http://127.0.0.1:1"}, "browser": {"url": "http://127.0.0.1:1"}}}
)
NOWHERE = Toolbox(SETTINGS.tools, time.monotonic, lambda *_: None)


class Records:
    """Keeps nothing."""

    def record(self, record: Record) -> None:
        """Forgets the record."""


class Grammars:
    """Finds everything usable."""

    async def require(self, grammar: str, param: str | None) -> None:
        """Returns at once."""


@pytest.fixture
def binding(backend: Backend, vocabulary: Vocabulary) -> Backend:
    """A backend that can hold answers to a grammar."""
    engine = FakeEngine()
    engine.state = EngineState.READY
    capabilities = (*engine.facts.capabilities, "grammar")
    engine.facts = msgspec.structs.replace(engine.facts, capabilities=capabilities)
    deadlines = SETTINGS.deadlines
    pipeline = Pipeline(
        engine, vocabulary, Admission(8, 8), deadlines, Records(), lambda: 0.0, Grammars()
    )
    return Backend(backend.manifest, vocabulary, pipeline, "2026-01-31", backend.names)


def request_of(**fields: Any) -> ResponsesRequest:
    body = {"model": MODEL, "input": "Hello", **fields}
    return decode(json.dumps(body).encode(), ResponsesRequest, SETTINGS.limits)


def job_of(backend: Backend, **fields: Any) -> Job:
    request = request_of(**fields)
    wanted = generation_request(request, Context(request.items), NOWHERE, INFO)
    return prepare(wanted, backend, SETTINGS)


def refusal(backend: Backend, **fields: Any) -> ServingError:
    with pytest.raises(ServingError) as refused:
        job_of(backend, **fields)
    return refused.value


def chosen(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


def test_the_model_is_offered_what_was_asked_for(backend: Backend) -> None:
    job = job_of(backend, tools=[PYTHON, WEATHER, BROWSER, PYTHON])
    text = backend.vocabulary.decode(job.prompt)
    assert text.count("## python") == text.count("## browser") == text.count("## functions") == 1
    assert job.built_in == {"python", *BROWSING}
    assert job.tools == {"f"}
    assert (job.sampling.grammar, job.later_held) == (None, None)


def test_with_the_choice_none_it_is_offered_nothing(backend: Backend) -> None:
    plain = job_of(backend)
    job = job_of(backend, tools=[PYTHON], tool_choice="none")
    assert (job.prompt, job.built_in) == (plain.prompt, frozenset())


def test_a_prompt_is_counted_with_its_tools(backend: Backend) -> None:
    body = {"model": MODEL, "input": "Hello", "tools": [PYTHON, WEATHER]}
    request = decode(json.dumps(body).encode(), TokensRequest, SETTINGS.limits)
    prompt = dialogue(request, Context(request.items), NOWHERE)
    counted = render_prompt(prompt, backend, SETTINGS)
    assert counted == job_of(backend, tools=[PYTHON, WEATHER]).prompt


HELD: list[tuple[dict[str, Any], Constraint, Constraint | None]] = [
    # What is asked; what holds the first round; what holds those after a built-in call.
    (
        {"tools": [PYTHON], "text": FORMAT},
        Constraint(built_in=("python",), schema=CITY),
        Constraint(built_in=("python",), schema=CITY),
    ),
    (
        {"tools": [{**WEATHER, "strict": True}, BROWSER]},
        Constraint(tools=(HELD_F,), built_in=BROWSING),
        Constraint(tools=(HELD_F,), built_in=BROWSING),
    ),
    (
        {"tools": [PYTHON], "tool_choice": "required"},
        Constraint(built_in=("python",), must_call=True),
        None,
    ),
    (
        {"tools": [PYTHON, WEATHER], "tool_choice": "required"},
        Constraint(tools=(HELD_F,), built_in=("python",), must_call=True),
        None,
    ),
    (
        {"tools": [PYTHON, BROWSER, WEATHER], "tool_choice": {"type": "code_interpreter"}},
        Constraint(built_in=("python",), must_call=True),
        None,
    ),
    (
        {"tools": [PYTHON, BROWSER], "tool_choice": {"type": "web_search_preview"}, "text": FORMAT},
        Constraint(built_in=BROWSING, must_call=True, schema=CITY),
        Constraint(built_in=(*BROWSING, "python"), schema=CITY),
    ),
    (
        {"tools": [PYTHON, WEATHER], "tool_choice": {"type": "function", "name": "f"}},
        Constraint(tools=(HELD_F,), must_call=True),
        None,
    ),
    (
        {"tools": [PYTHON, BROWSER, WEATHER], "tool_choice": chosen("auto", PYTHON)},
        Constraint(built_in=("python",), limits_tools=True),
        Constraint(built_in=("python",), limits_tools=True),
    ),
    (
        {"tools": [PYTHON, WEATHER], "tool_choice": chosen("required", PYTHON)},
        Constraint(built_in=("python",), must_call=True),
        Constraint(built_in=("python",), limits_tools=True),
    ),
    (
        {"tools": [PYTHON, WEATHER], "tool_choice": chosen("required", PYTHON, WEATHER)},
        Constraint(tools=(HELD_F,), built_in=("python",), must_call=True),
        Constraint(tools=(FREE_F,), built_in=("python",), limits_tools=True),
    ),
    (
        {"tools": [PYTHON, WEATHER], "tool_choice": chosen("auto", WEATHER)},
        Constraint(tools=(FREE_F,), limits_tools=True),
        None,
    ),
]


@pytest.mark.parametrize(
    ("fields", "first", "later"), HELD, ids=[json.dumps(case[0])[:120] for case in HELD]
)
def test_the_answer_is_held_to_the_choice_until_the_call_has_been_made(
    binding: Backend, fields: dict[str, Any], first: Constraint, later: Constraint | None
) -> None:
    job = job_of(binding, **fields)
    assert job.sampling.grammar == structural_tag(first)
    assert job.held is not None
    assert structural_tag(job.held) == job.sampling.grammar
    tags = [each and structural_tag(each) for each in (job.later_held, later)]
    assert tags[0] == tags[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [BROWSER], "tool_choice": {"type": "code_interpreter"}}, "tool_choice"),
        ({"tool_choice": {"type": "code_interpreter"}}, "tool_choice"),
        ({"tools": [PYTHON], "tool_choice": {"type": "mcp"}}, "tool_choice"),
        (
            {"tools": [PYTHON], "tool_choice": {"type": "mcp", "server_label": "mine"}},
            "tool_choice",
        ),
        ({"tools": [PYTHON], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": chosen("auto", BROWSER)}, "tool_choice.tools[0]"),
        (
            {"tools": [PYTHON, WEATHER], "tool_choice": chosen("auto", PYTHON, BROWSER)},
            "tool_choice.tools[1]",
        ),
        # A function's own place counts the tools before it.
        ({"tools": [PYTHON, {**UNHELD, "strict": True}]}, "tools[1].parameters.not"),
        ({"tools": [PYTHON, WEATHER, WEATHER]}, "tools"),
    ],
)
def test_what_is_wrong_is_named(binding: Backend, fields: dict[str, Any], param: str) -> None:
    assert refusal(binding, **fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [PYTHON], "tool_choice": "required"},
        {"tools": [PYTHON, BROWSER], "tool_choice": {"type": "code_interpreter"}},
        {"tools": [PYTHON, WEATHER], "tool_choice": chosen("auto", PYTHON)},
    ],
)
def test_without_constrained_decoding_a_choice_is_refused(
    backend: Backend, fields: dict[str, Any]
) -> None:
    error = refusal(backend, **fields)
    assert (error.kind, error.param) == (ErrorKind.UNSUPPORTED, "tool_choice")
