"""From the body of a Messages request to what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

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
    ReasoningEffort,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.protocols.edge.fields import EFFORTS
from serving.protocols.edge.generation import RequestInfo
from serving.protocols.edge.sampling import make_sampling
from serving.protocols.messages.blocks import (
    AssistantMessage,
    Message,
    SystemMessage,
    TextBlock,
    TextContent,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from serving.protocols.messages.schema import CountTokensRequest, MessagesRequest

ROUTE = "messages"

FORMAT_NAME = "output"
"""What the model is told that the schema of its answer is called."""

LOW_BUDGET_TOKENS = 4096
HIGH_BUDGET_TOKENS = 16384
"""A thinking budget below the first is low effort, from the second on high."""

_SEPARATOR = "\n\n"
"""Between the text blocks of one message: each is a text of its own."""


def generation_request(request: MessagesRequest, info: RequestInfo) -> GenerationRequest:
    """Returns what a request asks for. Raises ServingError."""
    return GenerationRequest(
        id=info.id,
        caller=info.caller,
        route=ROUTE,
        model=request.model,
        prompt=dialogue(request),
        prompt_place="messages",
        sampling=make_sampling(request.sampling),
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        deadline_seconds=info.deadline_seconds,
    )


def dialogue(request: CountTokensRequest) -> Dialogue:
    """Returns the conversation of a request. Raises ServingError."""
    system = [Developer(instructions=_text(request.system))] if request.system else []
    schema = _output_schema(request)
    place = "output_config.format"
    return Dialogue(
        turns=(*system, *_turns(request.messages)),
        effort=_effort(request),
        functions=tuple(
            Function(
                name=tool.name,
                description=tool.description or "",
                parameters=tool.input_schema,
                strict=bool(tool.strict),
                place=f"tools[{index}]",
                parameters_place=f"tools[{index}].input_schema",
            )
            for index, tool in enumerate(request.tools or ())
        ),
        tool_choice=_tool_choice(request),
        format=None
        if schema is None
        else AnswerFormat(
            name=FORMAT_NAME, schema=schema, place=place, schema_place=f"{place}.schema"
        ),
    )


def _tool_choice(request: CountTokensRequest) -> ToolChoice | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if choice.type == "tool":
        return ToolChoice(mode="required", only=((choice.name or "", "tool_choice.name"),))
    return ToolChoice(mode="required" if choice.type == "any" else choice.type)


def _output_schema(request: CountTokensRequest) -> dict[str, Any] | None:
    form = request.output_config and request.output_config.format
    return form.definition if form else None


def _effort(request: CountTokensRequest) -> ReasoningEffort | None:
    """Returns the effort that is asked for in so many words, or that the thinking budget means."""
    asked = request.output_config and request.output_config.effort
    if asked:
        return EFFORTS[asked]
    if request.thinking is None:
        return None
    budget_tokens = request.thinking.budget_tokens
    if request.thinking.type == "disabled":
        return "low"
    if budget_tokens is None:
        return None
    if budget_tokens < LOW_BUDGET_TOKENS:
        return "low"
    return "high" if budget_tokens >= HIGH_BUDGET_TOKENS else "medium"


def _turns(messages: list[Message]) -> Iterator[Turn]:
    """Yields the turns of the messages; a tool's result gets its tool's name by the call's id."""
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            yield Developer(instructions=_text(message.content))
        elif isinstance(message, UserMessage):
            yield from _user(message, index, names)
        else:
            yield _assistant(message, index, names)
    if isinstance(messages[-1], AssistantMessage):
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            "The conversation must end with a user message: this model does not go on with the "
            "beginning of an answer.",
            param=f"messages[{len(messages) - 1}]",
        )


def _user(message: UserMessage, index: int, names: dict[str, str]) -> Iterator[Turn]:
    """Yields what the user said and what tools returned, in the order of the blocks."""
    if isinstance(message.content, str):
        yield User(text=message.content)
        return
    said: list[str] = []
    for number, block in enumerate(message.content):
        if isinstance(block, TextBlock):
            said.append(block.text)
            continue
        if said:
            yield User(text=_SEPARATOR.join(said))
            said = []
        yield _result(block, names, f"messages[{index}].content[{number}].tool_use_id")
    if said or not message.content:
        yield User(text=_SEPARATOR.join(said))


def _result(block: ToolResultBlock, names: dict[str, str], param: str) -> ToolResult:
    name = names.get(block.tool_use_id)
    if name is None:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'{param}' names no tool_use block of an earlier assistant message.",
            param=param,
        )
    text = "" if block.content is None else _text(block.content)
    return ToolResult(name=name, text=f"Error: {text}" if block.is_error else text)


def _assistant(message: AssistantMessage, index: int, names: dict[str, str]) -> Assistant:
    if isinstance(message.content, str):
        blocks: list[object] = [TextBlock(type="text", text=message.content)]
    else:
        blocks = list(message.content)
    calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
    names.update((call.id, call.name) for call in calls)
    thinking = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if not blocks:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'messages[{index}].content' must not be empty.",
            param=f"messages[{index}].content",
        )
    return Assistant(
        reasoning=_SEPARATOR.join(filter(None, thinking)) or None,
        content=_SEPARATOR.join(texts) if texts else None,
        calls=tuple(
            ToolCall(name=call.name, arguments=msgspec.json.encode(call.input).decode())
            for call in calls
        ),
    )


def _text(content: TextContent) -> str:
    if isinstance(content, str):
        return content
    return _SEPARATOR.join(block.text for block in content)
