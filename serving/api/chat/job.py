"""From a checked chat request to a job: rendered, counted, checked against the engine."""

from __future__ import annotations

from serving.api.chat.built_in import NO_BUILT_IN, BuiltInUse
from serving.api.chat.constraint import bind, freed_choice
from serving.api.chat.conversation import make_conversation
from serving.api.chat.schema import ChatRequest
from serving.api.sampling import (
    answer_tokens,
    make_sampling,
    require_capabilities,
    require_model,
    require_stream_for_options,
)
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.harmony.render import render
from serving.job import Constraint, Job
from serving.runtime.messages import Ready
from serving.settings import Settings


def make_job(
    request: ChatRequest,
    backend: Backend,
    settings: Settings,
    *,
    job_id: str,
    deadline_seconds: float | None,
    use: BuiltInUse = NO_BUILT_IN,
) -> Job:
    """Returns the job of a request. Raises ServingError for what this engine cannot do.

    `use` says which built-in tools the model may call besides the request's functions. Encodes the
    whole conversation: milliseconds for a long one, so not always on the event loop.
    """
    ready = backend.ready()
    require_model(request.model, backend)
    _check_combinations(request)
    _check_capabilities(request, ready)
    constrains = "grammar" in ready.capabilities and backend.pipeline.constrains
    binding = bind(request, settings.limits, constrains=constrains, use=use)
    conversation = make_conversation(request, settings, backend.system_date, use.tools)
    prompt = render(conversation, backend.vocabulary)
    asked = request.max_new_tokens
    max_tokens = answer_tokens(asked, len(prompt), ready.max_seq_len, param="messages")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return Job(
        id=job_id,
        prompt=prompt,
        sampling=make_sampling(request, max_tokens, logprobs, grammar=binding and binding.grammar),
        held=binding and binding.constraint,
        grammar_param=binding and binding.param,
        later_held=_later_held(request, settings, use, constrains=constrains),
        choices=request.n or 1,
        stop=request.stops,
        tools=frozenset(tool.name for tool in conversation.tools),
        built_in=use.callable,
        deadline_seconds=deadline_seconds,
    )


def _later_held(
    request: ChatRequest, settings: Settings, use: BuiltInUse, *, constrains: bool
) -> Constraint | None:
    """Returns what holds the answer after a built-in call, which was all that had to be made."""
    if not use.callable:
        return None
    freed = request.model_copy(update={"tool_choice": freed_choice(request.tool_choice)})
    binding = bind(freed, settings.limits, constrains=constrains, use=use.freed())
    return binding and binding.constraint


def _check_combinations(request: ChatRequest) -> None:
    """Refuses fields that need another field."""
    if request.top_logprobs and not request.logprobs:
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs"
        )
    require_stream_for_options(request)


def _check_capabilities(request: ChatRequest, ready: Ready) -> None:
    """Refuses what the runtime says it cannot do."""
    require_capabilities(request, ready, logprobs=bool(request.logprobs))
