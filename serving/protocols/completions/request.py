"""From the body of a completion request to what it asks for, once a prompt."""

from __future__ import annotations

from serving.errors import ErrorKind, ServingError
from serving.generation.request import GenerationRequest
from serving.harmony.vocabulary import END_OF_TEXT
from serving.protocols.completions.schema import CompletionRequest
from serving.protocols.edge.generation import RequestInfo
from serving.protocols.edge.sampling import make_sampling, require_stream_for_options

ROUTE = "completions"
DEFAULT_MAX_TOKENS = 16


def generation_requests(request: CompletionRequest, info: RequestInfo) -> list[GenerationRequest]:
    """Returns what a request asks for, for each of its prompts. Raises ServingError.

    Without a prompt there is one: the token that separates documents, as the beginning of a new
    one. Names of control tokens in a text stay text.
    """
    require_stream_for_options(request)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            "'best_of' other than 'n' is not supported: every choice that is generated is "
            "returned. Ask for more with 'n'.",
            param="best_of",
        )
    prompts = [[END_OF_TEXT]] if request.prompt is None else request.prompt
    sampling = make_sampling(
        request,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
    )
    return [
        GenerationRequest(
            id=info.id if len(prompts) == 1 else f"{info.id}-{number}",
            caller=info.caller,
            route=ROUTE,
            model=request.model,
            prompt=prompt,
            prompt_place="prompt",
            sampling=sampling,
            max_tokens=request.max_tokens,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            choices=request.n or 1,
            stop=request.stops,
            deadline_seconds=info.deadline_seconds,
        )
        for number, prompt in enumerate(prompts)
    ]
