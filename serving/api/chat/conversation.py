"""From the messages and tools of a chat request to a conversation."""

from __future__ import annotations

import msgspec

from serving.api.chat.constraint import require_tools_for_choice, response_formats
from serving.api.chat.messages import (
    AssistantMessage,
    Content,
    InstructionMessage,
    Message,
    RefusalPart,
    ToolMessage,
    UserMessage,
)
from serving.api.chat.schema import ChatRequest, Effort, Tool
from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import (
    Assistant,
    BuiltInTool,
    Conversation,
    Developer,
    FunctionTool,
    ReasoningEffort,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.settings import Limits, Settings

# The model knows three efforts; OpenAI's others mean the nearest of them.
_EFFORTS: dict[Effort, ReasoningEffort] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def make_conversation(
    request: ChatRequest,
    settings: Settings,
    date: str | None,
    built_in: tuple[BuiltInTool, ...] = (),
) -> Conversation:
    """Returns the conversation of a request, dated `date`. Raises ServingError."""
    effort = request.reasoning_effort
    return Conversation(
        system=System(
            model_identity=settings.model_identity,
            knowledge_cutoff=settings.knowledge_cutoff,
            current_date=date,
            reasoning_effort=_EFFORTS[effort] if effort else settings.reasoning_effort,
            built_in=built_in,
        ),
        turns=tuple(_turns(request.messages)),
        tools=offered_tools(request, settings.limits),
        response_formats=response_formats(request),
    )


def offered_tools(request: ChatRequest, limits: Limits) -> tuple[FunctionTool, ...]:
    """Returns the functions that the model may call: with `tool_choice` none it is shown none."""
    require_tools_for_choice(request)
    if request.tools is None:
        return ()
    definitions = [tool.definition.model_dump() for tool in request.tools]
    if len(msgspec.json.encode(definitions)) > limits.tool_schema_bytes:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'tools' may have {limits.tool_schema_bytes} bytes of definitions at most.",
            param="tools",
        )
    if request.tool_choice == "none":
        return ()
    return tuple(_function(tool) for tool in request.tools)


def _function(tool: Tool) -> FunctionTool:
    function = tool.definition
    return FunctionTool(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters,
    )


def _turns(messages: list[Message]) -> list[Turn]:
    """Returns the turns of the messages; a tool's result gets its function's name by call id."""
    names: dict[str, str] = {}
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        if isinstance(message, InstructionMessage):
            turns.append(Developer(instructions=_text(message.content)))
        elif isinstance(message, UserMessage):
            turns.append(User(text=_text(message.content), name=message.name))
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
            turns.append(ToolResult(name=name, text=_text(message.content)))
    return turns


def _assistant(message: AssistantMessage, index: int) -> Assistant:
    reasoning = message.reasoning or message.reasoning_content
    content = message.refusal if message.content is None else _text(message.content)
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


def _text(content: Content) -> str:
    """Returns the text of a message: its parts one after another."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
