"""From checked request fields to the sampling of a job, as far as all protocols share it."""

from __future__ import annotations

from serving.api.sampling_schema import SamplingFields
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import STOP_TOKENS
from serving.job import Sampling
from serving.runtime.messages import Ready

_LEAST_TOP_P = 1e-6
"""A smaller `top_p`, 0 above all, means the likeliest token alone: greedy. As a nucleus it would
hold all tokens that are equally likely, and runtimes want more than 0."""


def make_sampling(
    request: SamplingFields, max_tokens: int, logprobs: int | None, grammar: str | None = None
) -> Sampling:
    """Returns the sampling that a request asks for; `logprobs` and `grammar` as `Sampling`'s.

    Raises ServingError for more `min_tokens` than `max_tokens`.
    """
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'min_tokens' is {min_tokens}, and the answer can have {max_tokens} tokens at most.",
            param="min_tokens",
        )
    bias = request.logit_bias or {}
    top_p = 1.0 if request.top_p is None else request.top_p
    temperature = 1.0 if request.temperature is None else request.temperature
    return Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if top_p < _LEAST_TOP_P else temperature,
        top_p=max(top_p, _LEAST_TOP_P),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty or 1.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias={int(token): value for token, value in bias.items()},
        logprobs=logprobs,
        stop_token_ids=STOP_TOKENS,
        min_tokens=min_tokens,
        ignore_eos=bool(request.ignore_eos),
        grammar=grammar,
    )


def require_model(name: str, backend: Backend) -> None:
    """Raises ServingError (MODEL_NOT_FOUND) for a model that this server does not have."""
    if name not in backend.names:
        raise ServingError(
            ErrorKind.MODEL_NOT_FOUND,
            f"There is no such model here; this server has {backend.model!r}.",
            param="model",
        )


def require_stream_for_options(request: SamplingFields) -> None:
    """Raises ServingError for `stream_options` of an answer that is not streamed."""
    if request.stream_options is not None and not request.stream:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            "'stream_options' is for requests with 'stream': true.",
            param="stream_options",
        )


def require_capabilities(request: SamplingFields, ready: Ready, *, logprobs: bool) -> None:
    """Raises ServingError (UNSUPPORTED) for a field that the runtime says it cannot honour."""
    used = {
        "logprobs": (logprobs, "logprobs"),
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


def answer_tokens(asked: int | None, prompt_tokens: int, context_tokens: int, *, param: str) -> int:
    """Returns how many tokens a choice may have: what was asked for, or what the context leaves.

    `param` is the field that holds the prompt. Raises ServingError (CONTEXT_LENGTH) with the
    numbers when the context is too short.
    """
    left = context_tokens - prompt_tokens
    if left >= (asked or 1):
        return asked or left
    wanted = "" if asked is None else f" and {asked} for the answer"
    raise ServingError(
        ErrorKind.CONTEXT_LENGTH,
        f"The context of this engine is {context_tokens} tokens. The request has {prompt_tokens} "
        f"in its {param}{wanted}. Shorten one of them.",
        param=param,
    )
