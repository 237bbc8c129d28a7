"""From the body of a chat request to what it asks for."""

from __future__ import annotations

from serving.errors import ErrorKind, ServingError
from serving.generation.request import (
    AnswerFormat,
    Dialogue,
    Function,
    GenerationRequest,
    ToolChoice,
)
from serving.harmony.conversation import (
    Assistant,
    Developer,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.protocols.chat.messages import (
    AssistantMessage,
    InstructionMessage,
    Message,
    ToolMessage,
    UserMessage,
)
from serving.protocols.chat.schema import AllowedTools, ChatRequest, NamedTool
from serving.protocols.edge.content import plain_text
from serving.protocols.edge.fields import EFFORTS
from serving.protocols.edge.generation import RequestInfo
from serving.protocols.edge.sampling import make_sampling, require_stream_for_options

ROUTE = "chat.completions"


def generation_request(request: ChatRequest, info: RequestInfo) -> GenerationRequest:
    """Returns what a chat request asks for. Raises ServingError for fields that contradict."""
    if request.top_logprobs and not request.logprobs:
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs"
        )
    require_stream_for_options(request)
    return GenerationRequest(
        id=info.id,
        caller=info.caller,
        route=ROUTE,
        model=request.model,
        prompt=dialogue(request),
        prompt_place="messages",
        sampling=make_sampling(
            request, logprobs=(request.top_logprobs or 0) if request.logprobs else None
        ),
        max_tokens=request.max_new_tokens,
        choices=request.n or 1,
        stop=request.stops,
        deadline_seconds=info.deadline_seconds,
    )


def dialogue(request: ChatRequest) -> Dialogue:
    """Returns the conversation of a request. Raises ServingError."""
    return Dialogue(
        turns=tuple(_turns(request.messages)),
        effort=EFFORTS[request.reasoning_effort] if request.reasoning_effort else None,
        functions=tuple(
            Function(
                name=tool.definition.name,
                description=tool.definition.description or "",
                parameters=tool.definition.parameters,
                strict=bool(tool.definition.strict),
                place=f"tools[{index}].function",
                parameters_place=f"tools[{index}].function.parameters",
            )
            for index, tool in enumerate(request.tools or ())
        ),
        tool_choice=_tool_choice(request),
        format=_format(request),
    )


def _tool_choice(request: ChatRequest) -> ToolChoice | None:
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return ToolChoice(mode="required", only=((choice.name, "tool_choice.function.name"),))
    if isinstance(choice, AllowedTools):
        place = "tool_choice.allowed_tools.tools"
        return ToolChoice(
            mode=choice.allowed_tools.mode,
            only=tuple(
                (tool.name, f"{place}[{index}].function.name")
                for index, tool in enumerate(choice.allowed_tools.tools)
            ),
        )
    return None if choice is None else ToolChoice(mode=choice)


def _format(request: ChatRequest) -> AnswerFormat | None:
    form = request.response_format
    if form is None or form.type == "text":
        return None
    return AnswerFormat(
        name=form.json_schema.name if form.json_schema else "",
        schema=form.json_schema.definition if form.json_schema else None,
        place="response_format",
        schema_place="response_format.json_schema.schema",
    )


def _turns(messages: list[Message]) -> list[Turn]:
    """Returns the turns of the messages; a tool's result gets its function's name by call id."""
    names: dict[str, str] = {}
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        if isinstance(message, InstructionMessage):
            turns.append(Developer(instructions=plain_text(message.content)))
        elif isinstance(message, UserMessage):
            turns.append(User(text=plain_text(message.content), name=message.name))
        elif isinstance(message, AssistantMessage):
            names.update((call.id, call.function.name) for call in message.tool_calls or ())
            turns.append(_assistant(message, index))
        elif isinstance(message, ToolMessage):
            name = names.get(message.tool_call_id)
            if name is None:
                raise ServingError(
                    ErrorKind.INVALID_VALUE,
                    f"'messages[{index}].tool_call_id' names no tool call of an earlier "
                    "assistant message.",
                    param=f"messages[{index}].tool_call_id",
                )
            turns.append(ToolResult(name=name, text=plain_text(message.content)))
    return turns


def _assistant(message: AssistantMessage, index: int) -> Assistant:
    reasoning = message.reasoning or message.reasoning_content
    content = message.refusal if message.content is None else plain_text(message.content)
    calls = tuple(
        ToolCall(name=call.function.name, arguments=call.function.arguments)
        for call in message.tool_calls or ()
    )
    if content is None and not calls and not reasoning:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'messages[{index}]' needs 'content' or 'tool_calls'.",
            param=f"messages[{index}].content",
        )
    return Assistant(reasoning=reasoning, content=content, calls=calls)
