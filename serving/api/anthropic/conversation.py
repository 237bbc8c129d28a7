"""From the messages and tools of an Anthropic request to a conversation."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from serving.api.anthropic.blocks import (
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
from serving.api.anthropic.constraint import FORMAT_NAME, output_schema
from serving.api.anthropic.schema import CountTokensRequest, Effort
from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import (
    Assistant,
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

LOW_BUDGET_TOKENS = 4096
HIGH_BUDGET_TOKENS = 16384
"""A thinking budget below the first is low effort, from the second on high."""

# The model knows three efforts; Anthropic's others mean the nearest of them.
_EFFORTS: dict[Effort, ReasoningEffort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}

_SEPARATOR = "\n\n"
"""Between the text blocks of one message: each is a text of its own."""


def make_conversation(
    request: CountTokensRequest, settings: Settings, date: str | None
) -> Conversation:
    """Returns the conversation of a request, dated `date`. Raises ServingError."""
    schema = output_schema(request)
    system = [Developer(instructions=_text(request.system))] if request.system else []
    return Conversation(
        system=System(
            model_identity=settings.model_identity,
            knowledge_cutoff=settings.knowledge_cutoff,
            current_date=date,
            reasoning_effort=_effort(request, settings.reasoning_effort),
        ),
        turns=(*system, *_turns(request.messages)),
        tools=_offered_tools(request, settings.limits),
        response_formats={} if schema is None else {FORMAT_NAME: schema},
    )


def _effort(request: CountTokensRequest, default: ReasoningEffort) -> ReasoningEffort:
    """Returns the effort that is asked for in so many words, or that the thinking budget means."""
    asked = request.output_config and request.output_config.effort
    if asked:
        return _EFFORTS[asked]
    if request.thinking is None:
        return default
    budget_tokens = request.thinking.budget_tokens
    if request.thinking.type == "disabled":
        return "low"
    if budget_tokens is None:
        return default
    if budget_tokens < LOW_BUDGET_TOKENS:
        return "low"
    return "high" if budget_tokens >= HIGH_BUDGET_TOKENS else "medium"


def _offered_tools(request: CountTokensRequest, limits: Limits) -> tuple[FunctionTool, ...]:
    """Returns the tools that the model may call: with the choice `none` it is shown none."""
    tools = request.tools or []
    choice = request.tool_choice
    if not tools and choice is not None and choice.type != "none":
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'tool_choice' needs 'tools'.", param="tool_choice"
        )
    if len(msgspec.json.encode([tool.model_dump() for tool in tools])) > limits.tool_schema_bytes:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'tools' may have {limits.tool_schema_bytes} bytes of definitions at most.",
            param="tools",
        )
    if choice is not None and choice.type == "none":
        return ()
    return tuple(
        FunctionTool(
            name=tool.name, description=tool.description or "", parameters=tool.input_schema
        )
        for tool in tools
    )


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
