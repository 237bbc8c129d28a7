"""Nonsense in any field of an Anthropic request is a job or a refusal, never a crash."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.prepare import prepare
from serving.protocols.edge.body import decode
from serving.protocols.edge.dialect import describe_for_anthropic
from serving.protocols.edge.sampling_schema import DENIED_FIELDS
from serving.protocols.messages.answer import read_input
from serving.protocols.messages.request import generation_request
from serving.protocols.messages.schema import MessagesRequest
from serving.settings import Settings
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.jobs import INFO
from tests.serving.protocols.nonsense import JSON

FIELDS = st.sampled_from([*MessagesRequest.model_fields, *sorted(DENIED_FIELDS)])
BLOCKS = st.dictionaries(
    st.sampled_from(
        ["type", "text", "thinking", "id", "name", "input", "tool_use_id", "content", "is_error"]
    ),
    JSON | st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image", "x"]),
    max_size=5,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
        optional={"content": st.text(max_size=8) | st.lists(BLOCKS, max_size=3) | JSON},
    ),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    fields=st.dictionaries(FIELDS, JSON, max_size=4),
    messages=MESSAGES | st.just([{"role": "user", "content": "x"}]),
)
def test_nonsense_is_a_job_or_a_refusal(
    backend: Backend, fields: dict[str, Any], messages: list[Any]
) -> None:
    body = {"model": MODEL, "max_tokens": 10, "messages": messages} | fields
    outcome = job_or_refusal(backend, body)
    if isinstance(outcome, ServingError):
        assert outcome.kind.value.http_status in (400, 404)
        json.dumps(describe_for_anthropic(outcome, "1"))
    else:
        assert 0 < outcome.sampling.max_tokens <= 4096


@given(text=st.text(max_size=20) | JSON.map(json.dumps))
def test_any_arguments_are_an_object(text: str) -> None:
    assert isinstance(read_input(text), dict)


def job_or_refusal(backend: Backend, fields: dict[str, Any]) -> Job | ServingError:
    under = Settings()
    try:
        request = decode(json.dumps(fields).encode(), MessagesRequest, under.limits)
        return prepare(generation_request(request, INFO), backend, under)
    except ServingError as error:
        return error
