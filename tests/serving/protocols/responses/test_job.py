"""A Responses request is a job, or is refused in its own words; long ones are cut where asked."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.pipeline import Pipeline
from serving.generation.prepare import prepare, render_prompt
from serving.protocols.edge.body import decode
from serving.protocols.responses.context import Context
from serving.protocols.responses.object import ResponseObject
from serving.protocols.responses.output import ItemOptions, Output
from serving.protocols.responses.request import dialogue, generation_request
from serving.protocols.responses.schema import ResponsesRequest, TokensRequest
from serving.settings import Settings
from serving.tools.executors import Toolbox
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.jobs import INFO
from tests.serving.protocols.jobs import job_of as chat_job_of

TOOLBOX = Toolbox(Settings().tools, lambda: 0.0, lambda *_: None)
LONG = "word " * 1000  # in a context of 4096 tokens


def request_of(**fields: Any) -> ResponsesRequest:
    body = {"model": MODEL, "input": "Hello", **fields}
    return decode(json.dumps(body).encode(), ResponsesRequest, Settings().limits)


def job_of(backend: Backend, **fields: Any) -> Job:
    request = request_of(**fields)
    wanted = generation_request(request, Context(request.items), TOOLBOX, INFO)
    return prepare(wanted, backend, Settings())


def text_of(backend: Backend, job: Job) -> str:
    pieces = [backend.vocabulary.token_bytes(t) for t in job.prompt if t < 199998]
    return b"".join(pieces).decode()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_the_job_is_recorded_under_its_own_route(backend: Backend) -> None:
    assert job_of(backend).route == "responses"


def test_log_probabilities_come_with_what_asks_for_them(backend: Backend) -> None:
    assert job_of(backend).sampling.logprobs is None
    assert job_of(backend, top_logprobs=3).sampling.logprobs == 3
    included = job_of(backend, include=["message.output_text.logprobs"])
    assert included.sampling.logprobs == 0


def test_a_choice_among_no_tools_is_no_error(backend: Backend) -> None:
    for choice in ("auto", "none"):
        assert job_of(backend, tool_choice=choice, tools=[]).tools == frozenset()


def test_a_prompt_that_is_too_long_is_refused_unless_it_may_be_cut(backend: Backend) -> None:
    turns = [
        {"role": "developer", "content": "Rules."},
        *(user(f"first {LONG}"), assistant(f"one {LONG}")),
        *(user(f"second {LONG}"), assistant(f"two {LONG}")),
        user("third"),
    ]
    with pytest.raises(ServingError) as refused:
        job_of(backend, input=turns)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.CONTEXT_LENGTH, "input")
    text = text_of(backend, job_of(backend, input=turns, truncation="auto"))
    assert "first" not in text
    assert "one" not in text
    assert "second" in text
    assert "third" in text
    assert "Rules." in text
    text = text_of(backend, job_of(backend, input=turns, truncation="auto", max_output_tokens=3000))
    assert "second" not in text
    assert "third" in text


def test_cutting_never_parts_a_call_from_its_result_and_keeps_the_last_turn(
    backend: Backend,
) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": LONG * 5}
    with pytest.raises(ServingError) as refused:
        job_of(backend, input=[user("a"), user("b"), call, output], truncation="auto")
    assert refused.value.kind is ErrorKind.CONTEXT_LENGTH
    text = text_of(
        backend,
        job_of(backend, input=[user("old"), call, output, user("new")], truncation="auto"),
    )
    assert "functions.f" not in text
    assert "new" in text


def test_cutting_leaves_as_much_as_fits(backend: Backend) -> None:
    turns = [user(f"turn{number}: {'word ' * 200}") for number in range(30)]
    text = text_of(backend, job_of(backend, input=turns, truncation="auto", max_output_tokens=9))
    kept = [number for number in range(30) if f"turn{number}:" in text]
    assert kept == list(range(kept[0], 30))
    tokens = len(job_of(backend, input=turns[kept[0] :]).prompt)
    with pytest.raises(ServingError):
        job_of(backend, input=turns[kept[0] - 1 :], max_output_tokens=9)
    assert tokens <= 4096 - 9


def test_nothing_is_neither_answered_nor_counted(backend: Backend) -> None:
    request = TokensRequest(input=[])
    with pytest.raises(ServingError, match="'input' must not be empty"):
        dialogue(request, Context(request.items), TOOLBOX)
    with pytest.raises(ServingError, match="'input' must not be empty"):
        job_of(backend, input=[])


def test_what_is_counted_is_the_prompt(backend: Backend) -> None:
    request = TokensRequest(instructions="Be kind.", input="Hello")
    prompt = dialogue(request, Context(request.items), TOOLBOX)
    counted = render_prompt(prompt, backend, Settings())
    assert counted == job_of(backend, instructions="Be kind.").prompt


TOO_MUCH = {"type": "object", "properties": {"x": {"not": {}}}}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"input": "word " * 5000}, "input"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": TOO_MUCH, "strict": True}]},
            "tools[0].parameters.properties.x.not",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": TOO_MUCH}}},
            "text.format.schema.properties.x.not",
        ),
        (
            {
                "tools": [{"type": "function", "name": "f"}],
                "tool_choice": {"type": "function", "name": "g"},
            },
            "tool_choice.name",
        ),
        (
            {
                "tools": [{"type": "function", "name": "f"}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "g"}],
                },
            },
            "tool_choice.tools[0].name",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ],
)
def test_errors_name_the_place_in_the_request(
    binding: Backend, fields: dict[str, Any], place: str
) -> None:
    with pytest.raises(ServingError) as refused:
        job_of(binding, **fields)
    assert refused.value.param == place
    assert f"'{place}'" in refused.value.message or place == "input"


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "name": "f", "parameters": CITY}
STRICT = {**FUNCTION, "strict": True}


def in_chat(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


SAME = [
    (
        {"text": {"format": {"type": "json_schema", "name": "place", "schema": CITY}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": CITY},
            }
        },
        "text.format",
    ),
    (
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
        "text.format",
    ),
    ({"tools": [STRICT]}, {"tools": [in_chat(STRICT)]}, "tools[0].strict"),
    (
        {"tools": [FUNCTION], "tool_choice": "required"},
        {"tools": [in_chat(FUNCTION)], "tool_choice": "required"},
        "tool_choice",
    ),
    (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
        {
            "tools": [in_chat(FUNCTION)],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        "tool_choice",
    ),
    (
        {
            "tools": [FUNCTION],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}],
            },
        },
        {
            "tools": [in_chat(FUNCTION)],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
        },
        "tool_choice",
    ),
]


@pytest.fixture
def binding(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend that can hold answers to a grammar."""
    ready = backend.ready()
    capable = msgspec.structs.replace(ready, capabilities=(*ready.capabilities, "grammar"))
    monkeypatch.setattr(Backend, "ready", lambda self: capable)
    monkeypatch.setattr(Pipeline, "constrains", property(lambda self: True))
    return backend


@pytest.mark.parametrize(("fields", "chat", "param"), SAME)
def test_answers_are_held_as_in_chat(
    binding: Backend, fields: dict[str, Any], chat: dict[str, Any], param: str
) -> None:
    job = job_of(binding, **fields)
    same = chat_job_of(binding, messages=[user("Hello")], **chat)
    assert job.sampling.grammar is not None
    assert (job.sampling.grammar, job.prompt) == (same.sampling.grammar, same.prompt)
    assert job.grammar_param == param


@pytest.mark.parametrize(("fields", "chat", "param"), SAME)
def test_without_grammars_what_would_be_held_is_refused_by_name(
    backend: Backend, fields: dict[str, Any], chat: dict[str, Any], param: str
) -> None:
    with pytest.raises(ServingError) as refused:
        job_of(backend, **fields)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.UNSUPPORTED, param)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = st.sampled_from(
    [
        *("user", "assistant", "developer", "message", "reasoning", "function_call"),
        *("function_call_output", "item_reference", "c", "f", "{}"),
    ]
)
ITEMS = st.lists(
    st.dictionaries(
        st.sampled_from(
            [
                *("type", "role", "content", "call_id", "name", "arguments", "output", "summary"),
                *("encrypted_content", "id"),
            ]
        ),
        JSON | WORDS,
        max_size=5,
    ),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from([*ResponsesRequest.model_fields]), JSON, max_size=4),
    items=ITEMS | st.just("x"),
)
def test_nonsense_is_a_job_or_a_refusal(
    backend: Backend, fields: dict[str, Any], items: Any
) -> None:
    body = {"model": MODEL, "input": items} | fields
    outcome = job_or_refusal(backend, json.dumps(body).encode())
    if isinstance(outcome, ServingError):
        assert outcome.kind.value.http_status in (400, 404)
        json.dumps(outcome.body)
    else:
        request, job = outcome
        assert 0 < job.sampling.max_tokens <= 4096
        options = ItemOptions(backend.vocabulary, summary=False, encrypted=False)
        response = ResponseObject(
            request,
            Settings(),
            Output(options, lambda: "1"),
            lambda: 0.0,
            model=MODEL,
            response_id="resp_1",
            stored=False,
        )
        json.dumps(response.begun())


def job_or_refusal(backend: Backend, body: bytes) -> tuple[ResponsesRequest, Job] | ServingError:
    limits = Settings()
    try:
        request = decode(body, ResponsesRequest, limits.limits)
        wanted = generation_request(request, Context(request.items), TOOLBOX, INFO)
        return request, prepare(wanted, backend, limits)
    except ServingError as error:
        return error
