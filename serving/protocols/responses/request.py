"""Makes the generation request of a Responses request and its context."""

from __future__ import annotations

from serving.errors import ErrorKind, ServingError
from serving.generation.request import AnswerFormat, Dialogue, GenerationRequest
from serving.protocols.edge.fields import EFFORTS
from serving.protocols.edge.generation import RequestInfo
from serving.protocols.edge.sampling import make_sampling
from serving.protocols.edge.sampling_schema import SamplingFields
from serving.protocols.responses.context import Context
from serving.protocols.responses.conversation import make_turns
from serving.protocols.responses.schema import LOGPROBS, PromptFields, ResponsesRequest
from serving.protocols.responses.tool_choice import functions_of, tool_use
from serving.tools.executors import Toolbox

ROUTE = "responses"


def generation_request(
    request: ResponsesRequest, context: Context, toolbox: Toolbox, info: RequestInfo
) -> GenerationRequest:
    """Returns the generation request of a request. Raises ServingError."""
    shows_logprobs = bool(request.top_logprobs) or request.includes(LOGPROBS)
    return GenerationRequest(
        id=info.id,
        caller=info.caller,
        route=ROUTE,
        model=request.model,
        prompt=dialogue(request, context, toolbox),
        prompt_place="input",
        sampling=make_sampling(
            SamplingFields(temperature=request.temperature, top_p=request.top_p),
            logprobs=(request.top_logprobs or 0) if shows_logprobs else None,
        ),
        max_tokens=request.max_output_tokens,
        logprobs_place="top_logprobs",
        deadline_seconds=info.deadline_seconds,
    )


def dialogue(request: PromptFields, context: Context, toolbox: Toolbox) -> Dialogue:
    """Returns the conversation of a request. Raises ServingError."""
    effort = request.reasoning and request.reasoning.effort
    built_in, choice = tool_use(request, toolbox)
    turns = tuple(make_turns(context.earlier, context.own, request.instructions))
    if not turns:
        raise ServingError(ErrorKind.INVALID_VALUE, "'input' must not be empty.", param="input")
    return Dialogue(
        turns=turns,
        effort=EFFORTS[effort] if effort else None,
        functions=functions_of(request),
        built_in=built_in,
        tool_choice=choice,
        format=_format(request),
        may_shorten=request.truncation == "auto",
    )


def _format(request: PromptFields) -> AnswerFormat | None:
    form = request.text and request.text.format
    if not form or form.type == "text":
        return None
    return AnswerFormat(
        name=form.name or "",
        schema=form.json_schema,
        place="text.format",
        schema_place="text.format.schema",
    )
