"""A request of no protocol becomes a job, or is refused at the place that it came from."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from serving.boundary.sampling import Sampling
from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.prepare import prepare, render_prompt
from serving.generation.request import (
    AnswerFormat,
    Dialogue,
    Function,
    GenerationRequest,
    ToolChoice,
)
from serving.harmony.conversation import Assistant, Developer, ToolResult, User
from serving.settings import Limits, Settings

CALLER = Caller(tenant="a")
HELLO = Dialogue(turns=(User(text="Hello"),))
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
LONG = "word " * 1000


def request(prompt: Any = HELLO, **fields: Any) -> GenerationRequest:
    sampling = fields.pop("sampling", Sampling(max_tokens=0))
    return GenerationRequest(
        id="1",
        caller=CALLER,
        route="chat.completions",
        model="m",
        prompt=prompt,
        prompt_place="here",
        sampling=sampling,
        **fields,
    )


def function(name: str = "f", **fields: Any) -> Function:
    values = {"description": "", "parameters": CITY, "strict": False, **fields}
    return Function(name=name, place="tool", parameters_place="tool.schema", **values)


def refusal(engine: Backend, wanted: GenerationRequest, **settings: Any) -> ServingError:
    with pytest.raises(ServingError) as refused:
        prepare(wanted, engine, Settings(**settings))
    return refused.value


def test_the_caller_and_the_route_stay_with_the_job(backend: Backend) -> None:
    job = prepare(request(), backend, Settings())
    assert (job.caller, job.route, job.harmony) == (CALLER, "chat.completions", True)
    assert job.prompt == render_prompt(HELLO, backend, Settings())
    assert job.sampling.max_tokens == 4096 - len(job.prompt)


def test_a_raw_prompt_is_taken_as_it_is(backend: Backend) -> None:
    job = prepare(request([1, 2, 3], default_max_tokens=16), backend, Settings())
    assert (job.prompt, job.harmony, job.sampling.max_tokens) == ([1, 2, 3], False, 16)
    text = prepare(request("<|call|>"), backend, Settings())
    assert all(token < 199998 for token in text.prompt)


def test_a_choice_among_no_tools_is_refused(backend: Backend) -> None:
    for choice in (ToolChoice(mode="auto"), ToolChoice(mode="required")):
        assert refusal(backend, request(replace(HELLO, tool_choice=choice))).param == "tool_choice"
    prepare(request(replace(HELLO, tool_choice=ToolChoice(mode="none"))), backend, Settings())


def test_functions_that_may_not_be_called_are_not_shown(backend: Backend) -> None:
    tools = replace(HELLO, functions=(function(),))
    assert prepare(request(tools), backend, Settings()).tools == {"f"}
    none = prepare(
        request(replace(tools, tool_choice=ToolChoice(mode="none"))), backend, Settings()
    )
    assert (none.tools, none.prompt) == (
        frozenset(),
        prepare(request(), backend, Settings()).prompt,
    )


def test_definitions_are_bounded_for_whoever_counts_them_too(backend: Backend) -> None:
    dialogue = replace(HELLO, functions=(function(description="x" * 300),))
    limits = Limits(tool_schema_bytes=200)
    assert refusal(backend, request(dialogue), limits=limits).param == "tools"
    with pytest.raises(ServingError):
        render_prompt(dialogue, backend, Settings(limits=limits))


@pytest.mark.parametrize(
    ("dialogue", "place"),
    [
        (replace(HELLO, functions=(function(strict=True),)), "tool.strict"),
        (
            replace(HELLO, functions=(function(),), tool_choice=ToolChoice(mode="required")),
            "tool_choice",
        ),
        (
            replace(
                HELLO,
                format=AnswerFormat(name="n", schema=None, place="form", schema_place="form.x"),
            ),
            "form",
        ),
    ],
)
def test_what_an_engine_cannot_hold_is_refused_where_it_is_asked(
    backend: Backend, dialogue: Dialogue, place: str
) -> None:
    error = refusal(backend, request(dialogue))
    assert (error.kind, error.param) == (ErrorKind.UNSUPPORTED, place)


def test_what_the_engine_lacks_is_named_by_the_place_of_the_protocol(backend: Backend) -> None:
    sampling = Sampling(max_tokens=0, prompt_logprobs=1)
    assert refusal(backend, request([1], sampling=sampling)).param == "logprobs"


def test_the_oldest_turns_are_left_out_where_that_is_allowed(backend: Backend) -> None:
    turns = (
        Developer(instructions="Rules."),
        User(text=f"first {LONG}"),
        Assistant(content=f"one {LONG}"),
        User(text=f"second {LONG}"),
        Assistant(content=f"two {LONG}"),
        User(text="third"),
        ToolResult(name="f", text="end"),
    )
    long = Dialogue(turns=turns)
    error = refusal(backend, request(long))
    assert (error.kind, error.param) == (ErrorKind.CONTEXT_LENGTH, "here")
    job = prepare(request(replace(long, may_shorten=True)), backend, Settings())
    text = backend.vocabulary.decode(job.prompt)
    assert "Rules." in text
    assert "first" not in text
    assert "second" in text
    short = prepare(request(replace(long, may_shorten=True), max_tokens=3000), backend, Settings())
    text = backend.vocabulary.decode(short.prompt)
    assert "second" not in text
    assert "third" in text
