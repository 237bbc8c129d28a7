"""From a checked Responses request to a job, by way of the chat request that means the same.

So both protocols have one set of rules for tools, forms of answers and sampling; what is refused
there is told in the words of this protocol.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from serving.api.body import describe
from serving.api.chat.built_in import NO_BUILT_IN, BuiltInUse
from serving.api.chat.conversation import make_conversation
from serving.api.chat.job import make_job
from serving.api.chat.schema import ChatRequest
from serving.api.responses.conversation import Message, make_messages
from serving.api.responses.kept import Context
from serving.api.responses.schema import (
    LOGPROBS,
    PromptFields,
    ResponsesRequest,
    TextFormat,
    TokensRequest,
)
from serving.api.responses.tool_choice import chat_tool_choice, functions_of
from serving.api.sampling import require_model
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.harmony.render import render
from serving.job import Job
from serving.settings import Settings

ROUTE = "responses"

_TOOL = re.compile(r"^tools\[(\d+)\]")

# What chat requests call it -> what it is called here; the longer name first.
_WORDS = (
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"^response_format\.json_schema\b"), "text.format"),
    (re.compile(r"^response_format\b"), "text.format"),
    (re.compile(r"^tool_choice\.allowed_tools\.mode\b"), "tool_choice.mode"),
    (
        re.compile(r"^tool_choice\.allowed_tools\.tools(\[\d+\])\.function\b"),
        r"tool_choice.tools\1",
    ),
    (re.compile(r"^tool_choice\.allowed_tools\b"), "tool_choice"),
    (re.compile(r"^tool_choice\.function\b"), "tool_choice"),
    (re.compile(r"^reasoning_effort\b"), "reasoning.effort"),
    (re.compile(r"^max_completion_tokens\b"), "max_output_tokens"),
    (re.compile(r"^logprobs\b"), "top_logprobs"),
    (re.compile(r"^messages\b.*"), "input"),
)


def make_response_job(
    request: ResponsesRequest,
    context: Context,
    backend: Backend,
    settings: Settings,
    *,
    job_id: str,
    deadline_seconds: float | None,
    use: BuiltInUse = NO_BUILT_IN,
) -> Job:
    """Returns the job of a request in its context. Raises ServingError.

    With `truncation` auto the oldest turns are left out until the rest fits.
    """

    def job_of(messages: list[Message]) -> Job:
        fields = {"model": request.model, **_sampling_fields(request)}
        chat = _chat_request(request, messages, settings, use, fields)
        return make_job(
            chat, backend, settings, job_id=job_id, deadline_seconds=deadline_seconds, use=use
        )

    try:
        messages = make_messages(context.earlier, context.own, request.instructions)
        job = fitting(messages, job_of) if request.truncation == "auto" else job_of(messages)
    except ServingError as error:
        raise in_own_words(error, [*functions_of(request)]) from None
    field = job.grammar_param and _own_name(job.grammar_param, [*functions_of(request)])
    return msgspec.structs.replace(job, route=ROUTE, grammar_param=field)


def count_tokens(
    request: TokensRequest,
    context: Context,
    backend: Backend,
    settings: Settings,
    use: BuiltInUse = NO_BUILT_IN,
) -> int:
    """Returns how many tokens the prompt of a request has. Raises ServingError."""
    try:
        messages = make_messages(context.earlier, context.own, request.instructions)
        model = backend.model if request.model is None else request.model
        chat = _chat_request(request, messages, settings, use, {"model": model})
        require_model(chat.model, backend)
        conversation = make_conversation(chat, settings, backend.system_date, use.tools)
    except ServingError as error:
        raise in_own_words(error, [*functions_of(request)]) from None
    return len(render(conversation, backend.vocabulary))


def fitting(messages: list[Message], job_of: Callable[[list[Message]], Job]) -> Job:
    """Returns the job of as many of the latest turns as fit the context.

    A turn goes from a user's message to the next one's, so that no call loses its result; leading
    instructions and the last turn stay. Raises what `job_of` raises when that alone is too long.
    """
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    kept = next((i for i, m in enumerate(messages) if m["role"] not in _INSTRUCTING), 0)
    starts = [kept] + [start for start in users if start > kept]
    jobs: dict[int, Job] = {}

    def fits(cut: int) -> bool:
        try:
            jobs[cut] = job_of(messages[:kept] + messages[starts[cut] :])
        except ServingError as error:
            if error.kind is not ErrorKind.CONTEXT_LENGTH or cut == len(starts) - 1:
                raise
            return False
        return True

    if fits(0):
        return jobs[0]
    # A later cut is never longer: the first that fits is found by halving.
    low, high = 1, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    if low not in jobs:
        fits(low)
    return jobs[low]


_INSTRUCTING = ("system", "developer")


def in_own_words(error: ServingError, places: Sequence[int] = ()) -> ServingError:
    """Returns an error about a chat request as one about a Responses request.

    `places` are those of its functions among the request's tools.
    """
    if error.param is None:
        return error
    param = _own_name(error.param, places)
    message = error.message.replace(f"'{error.param}'", f"'{param}'")
    return ServingError(
        error.kind, message, param=param, retry_after_seconds=error.retry_after_seconds
    )


def _own_name(param: str, places: Sequence[int]) -> str:
    """Returns the place here of a place in a chat request."""
    found = _TOOL.match(param)
    if found and int(found.group(1)) < len(places):
        param = f"tools[{places[int(found.group(1))]}]{param[found.end() :]}"
    for pattern, word in _WORDS:
        name, count = pattern.subn(word, param)
        if count:
            return name
    return param


def _chat_request(
    request: PromptFields,
    messages: list[Message],
    settings: Settings,
    use: BuiltInUse,
    fields: dict[str, Any],
) -> ChatRequest:
    tools = [
        {"type": "function", "function": tool.described()}
        for tool in functions_of(request).values()
    ]
    reasoning, text = request.reasoning, request.text
    values = {
        "messages": messages,
        "tools": tools or None,
        "tool_choice": chat_tool_choice(request, use),
        "parallel_tool_calls": request.parallel_tool_calls,
        "reasoning_effort": reasoning and reasoning.effort,
        "response_format": _response_format(text.format) if text and text.format else None,
        **fields,
    }
    try:
        return ChatRequest.model_validate(values, context=settings.limits)
    except ValidationError as error:
        raise describe(error) from None


def _sampling_fields(request: ResponsesRequest) -> dict[str, Any]:
    logprobs = bool(request.top_logprobs) or request.includes(LOGPROBS)
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": logprobs or None,
        "top_logprobs": request.top_logprobs,
    }


def _response_format(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    schema = {
        "name": form.name,
        "description": form.description,
        "schema": form.json_schema,
        "strict": form.strict,
    }
    return {"type": "json_schema", "json_schema": schema}
