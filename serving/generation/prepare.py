"""From a request to its job: the one place where it is checked, held, rendered and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from serving.boundary.messages import Ready
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend
from serving.generation.constraint import Binding, bind, offered, require_tools
from serving.generation.job import Job
from serving.generation.request import Dialogue, GenerationRequest, Prompt
from serving.harmony.conversation import Conversation, Developer, FunctionTool, System, Turn, User
from serving.harmony.render import render
from serving.harmony.vocabulary import STOP_TOKENS
from serving.settings import Settings


def prepare(request: GenerationRequest, engine: Backend, settings: Settings) -> Job:
    """Returns the job of a request. Raises ServingError for what this engine cannot do.

    Encodes the whole prompt: milliseconds for a long one, so not always on the event loop.
    """
    ready = engine.ready()
    _require_capabilities(request, ready)
    prompt, binding = request.prompt, Binding()
    if isinstance(prompt, Dialogue):
        require_tools(prompt, settings.limits)
        constrains = "grammar" in ready.capabilities and engine.pipeline.constrains
        binding = bind(prompt, request.sampling, settings.limits, constrains=constrains)
    most = ready.max_seq_len - (request.max_tokens or 1)
    tokens = _rendered(prompt, engine, settings, most_tokens=most)
    max_tokens = _answer_tokens(request, len(tokens), ready.max_seq_len)
    if (min_tokens := request.sampling.min_tokens) > max_tokens:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'min_tokens' is {min_tokens}, and the answer can have {max_tokens} tokens at most.",
            param="min_tokens",
        )
    dialogue = prompt if isinstance(prompt, Dialogue) else None
    return Job(
        id=request.id,
        caller=request.caller,
        prompt=tokens,
        sampling=msgspec.structs.replace(
            request.sampling,
            max_tokens=max_tokens,
            stop_token_ids=STOP_TOKENS,
            grammar=binding.grammar,
        ),
        grammar_param=binding.place,
        held=binding.constraint,
        later_held=binding.later,
        choices=request.choices,
        stop=request.stop,
        tools=frozenset(f.name for f in offered(dialogue)) if dialogue else frozenset(),
        built_in=dialogue.built_in.callable if dialogue else frozenset(),
        harmony=dialogue is not None,
        lane=request.lane,
        route=request.route,
        deadline_seconds=request.deadline_seconds,
    )


def render_prompt(prompt: Prompt, engine: Backend, settings: Settings) -> list[int]:
    """Returns the token ids of a whole prompt, as `prepare` has them. Raises ServingError."""
    if isinstance(prompt, Dialogue):
        require_tools(prompt, settings.limits)
    return _rendered(prompt, engine, settings)


def _rendered(
    prompt: Prompt, engine: Backend, settings: Settings, most_tokens: int | None = None
) -> list[int]:
    """Returns the token ids that the engine reads.

    A dialogue that may be shortened loses its oldest turns until it has `most_tokens` at most.
    """
    if isinstance(prompt, str):
        return engine.vocabulary.encode(prompt)
    if not isinstance(prompt, Dialogue):
        return prompt
    dialogue = prompt

    def rendered(turns: tuple[Turn, ...]) -> list[int]:
        return render(_conversation(dialogue, turns, engine, settings), engine.vocabulary)

    if most_tokens is None or not dialogue.may_shorten:
        return rendered(dialogue.turns)
    return _fitting(dialogue.turns, rendered, most_tokens)


def _conversation(
    dialogue: Dialogue, turns: tuple[Turn, ...], engine: Backend, settings: Settings
) -> Conversation:
    form = dialogue.format
    return Conversation(
        system=System(
            model_identity=settings.model_identity,
            knowledge_cutoff=settings.knowledge_cutoff,
            current_date=engine.system_date,
            reasoning_effort=dialogue.effort or settings.reasoning_effort,
            built_in=dialogue.built_in.tools,
        ),
        turns=turns,
        tools=tuple(
            FunctionTool(
                name=function.name,
                description=function.description,
                parameters=function.parameters,
            )
            for function in offered(dialogue)
        ),
        response_formats={} if form is None or form.schema is None else {form.name: form.schema},
    )


def _fitting(
    turns: tuple[Turn, ...], rendered: Callable[[tuple[Turn, ...]], list[int]], most_tokens: int
) -> list[int]:
    """Returns the tokens of as many of the latest turns as fit.

    A cut is made before a user's turn, so that no call loses its result; leading instructions and
    the last user's turn stay, and are returned even where they do not fit.
    """
    lead = next((i for i, turn in enumerate(turns) if not isinstance(turn, Developer)), 0)
    later = [i for i, turn in enumerate(turns) if i > lead and isinstance(turn, User)]
    starts = [lead, *later]
    tokens = rendered(turns)
    low, high = 1, len(starts) - 1
    if len(tokens) <= most_tokens or high == 0:
        return tokens
    # A later cut is never longer: the first that fits is found by halving.
    while low < high:
        middle = (low + high) // 2
        fits = len(rendered((*turns[:lead], *turns[starts[middle] :]))) <= most_tokens
        low, high = (low, middle) if fits else (middle + 1, high)
    return rendered((*turns[:lead], *turns[starts[low] :]))


def _answer_tokens(request: GenerationRequest, prompt_tokens: int, context_tokens: int) -> int:
    """Returns how many tokens a choice may have: what was asked for, or what the context leaves.

    Raises ServingError (CONTEXT_LENGTH) with the numbers when the context is too short.
    """
    asked, place = request.max_tokens, request.prompt_place
    left = context_tokens - prompt_tokens
    if left >= (asked or 1):
        return asked or min(left, request.default_max_tokens or left)
    wanted = "" if asked is None else f" and {asked} for the answer"
    raise ServingError(
        ErrorKind.CONTEXT_LENGTH,
        f"The context of this engine is {context_tokens} tokens. The request has {prompt_tokens} "
        f"in its {place}{wanted}. Shorten one of them.",
        param=place,
    )


def _require_capabilities(request: GenerationRequest, ready: Ready) -> None:
    """Raises ServingError (UNSUPPORTED) for a field that the runtime says it cannot honour."""
    for place, capability in _used(request.sampling, request.logprobs_place):
        if capability not in ready.capabilities:
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{place}' is not supported by this engine.",
                param=place,
            )
    if request.sampling.prompt_logprobs is None or "prompt_logprobs" in ready.capabilities:
        return
    raise ServingError(
        ErrorKind.UNSUPPORTED,
        "'logprobs' with 'echo' is not supported: this engine has no log-probabilities of the "
        "prompt's tokens. Leave one of the two out.",
        param="logprobs",
    )


def _used(sampling: Sampling, logprobs_place: str) -> Iterable[tuple[str, str]]:
    """Yields the place and the capability of each optional feature that a request uses."""
    if sampling.logprobs is not None:
        yield logprobs_place, "logprobs"
    if sampling.logit_bias:
        yield "logit_bias", "logit_bias"
    if sampling.frequency_penalty:
        yield "frequency_penalty", "penalties"
    if sampling.presence_penalty:
        yield "presence_penalty", "penalties"
    if sampling.repetition_penalty != 1.0:
        yield "repetition_penalty", "penalties"
    if sampling.min_p:
        yield "min_p", "min_p"
