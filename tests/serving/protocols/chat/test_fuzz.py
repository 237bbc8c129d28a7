"""Nonsense in any field of a chat request is a job or a refusal, never a crash."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.protocols.chat.schema import DENIED_FIELDS, ChatRequest
from tests.serving.protocols.jobs import job_of
from tests.serving.protocols.nonsense import JSON

FIELDS = st.sampled_from([*ChatRequest.model_fields, *sorted(DENIED_FIELDS)])
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(
            ["role", "content", "tool_calls", "tool_call_id", "reasoning", "refusal", "name"]
        ),
        JSON | st.sampled_from(["user", "assistant", "tool", "system", "function"]),
        max_size=5,
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
    outcome = job_or_refusal(backend, {"messages": messages} | fields)
    if isinstance(outcome, ServingError):
        assert outcome.kind.value.http_status in (400, 404)
        json.dumps(outcome.body)
    else:
        assert 0 < outcome.sampling.max_tokens <= 4096


def job_or_refusal(backend: Backend, fields: dict[str, Any]) -> Job | ServingError:
    try:
        return job_of(backend, **fields)
    except ServingError as error:
        return error
