"""From a checked chat request to a job: rendered, counted, checked against the engine."""

from __future__ import annotations

from serving.api.chat_conversation import make_conversation
from serving.api.chat_schema import ChatRequest
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.harmony.render import render
from serving.harmony.vocabulary import STOP_TOKENS
from serving.job import Job, Sampling
from serving.runtime.messages import Ready
from serving.settings import Settings

_LEAST_TOP_P = 1e-6
"""`top_p` 0 means the likeliest token alone, as with OpenAI; runtimes want more than 0."""


def make_job(
    request: ChatRequest,
    backend: Backend,
    settings: Settings,
    *,
    job_id: str,
    deadline_seconds: float | None,
) -> Job:
    """Returns the job of a request. Raises ServingError for what this engine cannot do.

    Encodes the whole conversation: milliseconds for a long one, so not always on the event loop.
    """
    ready = backend.ready()
    if request.model not in settings.served_model_names:
        raise ServingError(
            ErrorKind.MODEL_NOT_FOUND,
            f"There is no such model here; this server has {settings.model!r}.",
            param="model",
        )
    _check_combinations(request)
    _check_capabilities(request, ready)
    conversation = make_conversation(request, settings, backend.system_date)
    prompt = render(conversation, backend.vocabulary)
    max_tokens = _max_tokens(request, len(prompt), ready.max_seq_len)
    return Job(
        id=job_id,
        prompt=prompt,
        sampling=_sampling(request, max_tokens),
        choices=request.n or 1,
        stop=request.stops,
        tools=frozenset(tool.name for tool in conversation.tools),
        deadline_seconds=deadline_seconds,
    )


def _check_combinations(request: ChatRequest) -> None:
    """Refuses fields that need another field."""
    if request.top_logprobs and not request.logprobs:
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs"
        )
    if request.stream_options is not None and not request.stream:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            "'stream_options' is for requests with 'stream': true.",
            param="stream_options",
        )


def _check_capabilities(request: ChatRequest, ready: Ready) -> None:
    """Refuses what the runtime says it cannot do."""
    used = {
        "logprobs": (request.logprobs, "logprobs"),
        "logit_bias": (request.logit_bias, "logit_bias"),
        "frequency_penalty": (request.frequency_penalty, "penalties"),
        "presence_penalty": (request.presence_penalty, "penalties"),
        "repetition_penalty": (request.repetition_penalty not in (None, 1.0), "penalties"),
        "min_p": (request.min_p, "min_p"),
    }
    for param, (value, capability) in used.items():
        if value and capability not in ready.capabilities:
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{param}' is not supported by this engine.",
                param=param,
            )
    for index, tool in enumerate(request.tools or ()):
        if tool.definition.strict:
            param = f"tools[{index}].function.strict"
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{param}' promises arguments that fit the schema, which needs constrained "
                "decoding; this engine does not have it. Leave it out or set it to false.",
                param=param,
            )


def _max_tokens(request: ChatRequest, prompt_tokens: int, context_tokens: int) -> int:
    """Returns how many tokens a choice may have: what was asked for, or what the context leaves."""
    asked = request.max_new_tokens
    left = context_tokens - prompt_tokens
    if left >= (asked or 1):
        return asked or left
    wanted = "" if asked is None else f" and {asked} for the answer"
    raise ServingError(
        ErrorKind.CONTEXT_LENGTH,
        f"The context of this engine is {context_tokens} tokens. The request has {prompt_tokens} "
        f"in its messages{wanted}. Shorten one of them.",
        param="messages",
    )


def _sampling(request: ChatRequest, max_tokens: int) -> Sampling:
    top_k = request.top_k or 0
    bias = request.logit_bias or {}
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else max(request.top_p, _LEAST_TOP_P),
        top_k=max(top_k, 0),
        min_p=request.min_p or 0.0,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty or 1.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias={int(token): value for token, value in bias.items()},
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        stop_token_ids=STOP_TOKENS,
        min_tokens=min(request.min_tokens or 0, max_tokens),
        ignore_eos=bool(request.ignore_eos),
    )
