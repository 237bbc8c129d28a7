"""From checked request fields to the sampling of a request, as far as protocols share it."""

from __future__ import annotations

from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.sampling_schema import SamplingFields

_LEAST_TOP_P = 1e-6
"""A smaller `top_p`, 0 above all, means the likeliest token alone: greedy. As a nucleus it would
hold all tokens that are equally likely, and runtimes want more than 0."""


def make_sampling(
    request: SamplingFields, *, logprobs: int | None = None, prompt_logprobs: int | None = None
) -> Sampling:
    """Returns how the fields of a request have tokens chosen."""
    bias = request.logit_bias or {}
    top_p = 1.0 if request.top_p is None else request.top_p
    temperature = 1.0 if request.temperature is None else request.temperature
    return Sampling(
        max_tokens=0,
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
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        prompt_logprobs=prompt_logprobs,
    )


def require_stream_for_options(request: SamplingFields) -> None:
    """Raises ServingError for `stream_options` of an answer that is not streamed."""
    if request.stream_options is not None and not request.stream:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            "'stream_options' is for requests with 'stream': true.",
            param="stream_options",
        )
