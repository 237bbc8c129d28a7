"""Jobs of chat requests, made as the endpoint makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.control.callers import ANONYMOUS
from serving.errors import ServingError
from serving.fleet.table import Fleet
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.prepare import prepare
from serving.protocols.chat.request import generation_request
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.edge.body import decode
from serving.protocols.edge.generation import RequestInfo
from serving.settings import Settings
from tests.serving.protocols.edge.server import chat_body

INFO = RequestInfo("1", ANONYMOUS, None)
"""What is known of a request beside its body."""


def job_of(backend: Backend, **fields: Any) -> Job:
    """Returns the job of a simple request with `fields` set."""
    return job_under(Settings(), backend, **fields)


def job_under(settings: Settings, backend: Backend, **fields: Any) -> Job:
    """Returns the job of a request under other settings."""
    body = json.dumps(chat_body(**fields)).encode()
    request = decode(body, ChatRequest, settings.limits)
    engine = Fleet(lambda: backend).find(request.model)
    return prepare(generation_request(request, INFO), engine, settings)


def refusal(backend: Backend, **fields: Any) -> ServingError:
    """Returns the error that a request gets."""
    return refusal_under(Settings(), backend, **fields)


def refusal_under(settings: Settings, backend: Backend, **fields: Any) -> ServingError:
    """Returns the error that a request gets under other settings."""
    with pytest.raises(ServingError) as refused:
        job_under(settings, backend, **fields)
    return refused.value
