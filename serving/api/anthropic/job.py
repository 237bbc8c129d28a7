"""From a checked Anthropic request to a job: rendered, counted, checked against the engine."""

from __future__ import annotations

from serving.api.anthropic.constraint import bind
from serving.api.anthropic.conversation import make_conversation
from serving.api.anthropic.schema import CountTokensRequest, MessagesRequest
from serving.api.sampling import answer_tokens, make_sampling, require_model
from serving.backend import Backend
from serving.harmony.render import render
from serving.job import Job
from serving.settings import Settings


def make_job(
    request: MessagesRequest,
    backend: Backend,
    settings: Settings,
    *,
    job_id: str,
    route: str,
    deadline_seconds: float | None,
) -> Job:
    """Returns the job of a request. Raises ServingError for what this engine cannot do.

    Encodes the whole conversation: milliseconds for a long one, so not always on the event loop.
    """
    ready = backend.ready()
    require_model(request.model, backend)
    constrains = "grammar" in ready.capabilities and backend.pipeline.constrains
    binding = bind(request, settings.limits, constrains=constrains)
    conversation = make_conversation(request, settings, backend.system_date)
    prompt = render(conversation, backend.vocabulary)
    max_tokens = answer_tokens(request.max_tokens, len(prompt), ready.max_seq_len, param="messages")
    return Job(
        id=job_id,
        prompt=prompt,
        sampling=make_sampling(request.sampling, max_tokens, None, binding and binding.grammar),
        held=binding and binding.constraint,
        grammar_param=binding and binding.param,
        stop=tuple(request.stop_sequences or ()),
        tools=frozenset(tool.name for tool in conversation.tools),
        route=route,
        deadline_seconds=deadline_seconds,
    )


def count_tokens(request: CountTokensRequest, backend: Backend, settings: Settings) -> int:
    """Returns how many tokens the prompt of a request has. Raises ServingError."""
    require_model(request.model, backend)
    conversation = make_conversation(request, settings, backend.system_date)
    return len(render(conversation, backend.vocabulary))
