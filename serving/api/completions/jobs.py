"""From a checked completion request to its jobs, one a prompt."""

from __future__ import annotations

import msgspec

from serving.api.completions.schema import CompletionRequest, Prompt
from serving.api.sampling import (
    answer_tokens,
    make_sampling,
    require_capabilities,
    require_model,
    require_stream_for_options,
)
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.harmony.vocabulary import END_OF_TEXT, Vocabulary
from serving.job import Job, Sampling
from serving.runtime.messages import Ready
from serving.settings import Settings

DEFAULT_MAX_TOKENS = 16


def make_jobs(
    request: CompletionRequest,
    backend: Backend,
    settings: Settings,
    *,
    job_id: str,
    route: str,
    deadline_seconds: float | None,
) -> list[Job]:
    """Returns a job for each prompt. Raises ServingError for what this engine cannot do.

    Encodes the texts: milliseconds for a long one, so not always on the event loop.
    """
    ready = backend.ready()
    require_model(request.model, backend)
    require_stream_for_options(request)
    _check_combinations(request, ready)
    require_capabilities(request, ready, logprobs=request.logprobs is not None)
    jobs: list[Job] = []
    prompts = encode_prompts(request.prompt, backend.vocabulary)
    for number, prompt in enumerate(prompts):
        asked = request.max_tokens
        max_tokens = answer_tokens(asked, len(prompt), ready.max_seq_len, param="prompt")
        if asked is None:
            max_tokens = min(max_tokens, DEFAULT_MAX_TOKENS)
        jobs.append(
            Job(
                id=job_id if len(prompts) == 1 else f"{job_id}-{number}",
                prompt=prompt,
                sampling=_sampling(request, max_tokens),
                choices=request.n or 1,
                stop=request.stops,
                harmony=False,
                route=route,
                deadline_seconds=deadline_seconds,
            )
        )
    return jobs


def _sampling(request: CompletionRequest, max_tokens: int) -> Sampling:
    sampling = make_sampling(request, max_tokens, request.logprobs)
    if not request.echo:
        return sampling
    return msgspec.structs.replace(sampling, prompt_logprobs=request.logprobs)


def encode_prompts(prompts: list[Prompt] | None, vocabulary: Vocabulary) -> list[list[int]]:
    """Returns the token ids of each prompt. Names of control tokens in a text stay text.

    Without a prompt there is one: the token that separates documents, as the beginning of a new
    one.
    """
    if prompts is None:
        return [[END_OF_TEXT]]
    return [vocabulary.encode(one) if isinstance(one, str) else one for one in prompts]


def _check_combinations(request: CompletionRequest, ready: Ready) -> None:
    """Refuses fields that do not go together here."""
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            "'best_of' other than 'n' is not supported: every choice that is generated is "
            "returned. Ask for more with 'n'.",
            param="best_of",
        )
    scores = request.echo and request.logprobs is not None
    if scores and "prompt_logprobs" not in ready.capabilities:
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            "'logprobs' with 'echo' is not supported: this engine has no log-probabilities of the "
            "prompt's tokens. Leave one of the two out.",
            param="logprobs",
        )
