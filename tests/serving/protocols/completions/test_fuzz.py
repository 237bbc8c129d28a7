"""Nonsense in any field of a completion request is jobs or a refusal, never a crash."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.prepare import prepare
from serving.harmony.vocabulary import SIZE
from serving.protocols.completions.request import generation_requests
from serving.protocols.completions.schema import CompletionRequest
from serving.protocols.edge.body import decode
from serving.protocols.edge.sampling_schema import DENIED_FIELDS
from serving.settings import Settings
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.jobs import INFO
from tests.serving.protocols.nonsense import JSON

FIELDS = st.sampled_from([*CompletionRequest.model_fields, *sorted(DENIED_FIELDS)])
PROMPTS = (
    st.text(max_size=20)
    | st.lists(st.text(max_size=8), max_size=4)
    | st.lists(st.integers(-1, SIZE), max_size=8)
    | st.lists(st.lists(st.integers(0, SIZE - 1), max_size=8), max_size=4)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fields=st.dictionaries(FIELDS, JSON, max_size=4), prompt=PROMPTS)
def test_nonsense_is_jobs_or_a_refusal(
    backend: Backend, fields: dict[str, Any], prompt: object
) -> None:
    outcome = jobs_or_refusal(backend, {"model": MODEL, "prompt": prompt} | fields)
    if isinstance(outcome, ServingError):
        assert outcome.kind.value.http_status in (400, 404)
        json.dumps(outcome.body)
    else:
        assert outcome
        assert all(0 < job.sampling.max_tokens <= 4096 and job.prompt for job in outcome)


def jobs_or_refusal(backend: Backend, fields: dict[str, Any]) -> list[Job] | ServingError:
    under = Settings()
    try:
        request = decode(json.dumps(fields).encode(), CompletionRequest, under.limits)
        wanted = generation_requests(request, INFO)
        return [prepare(one, backend, under) for one in wanted]
    except ServingError as error:
        return error
