"""What the Messages API answers."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from serving.protocols.edge.answers import open_ended


class MessagesErrorObject(TypedDict):
    """What went wrong."""

    type: str
    message: str


class MessagesError(TypedDict):
    """Any error, with any status."""

    type: Literal["error"]
    error: MessagesErrorObject
    request_id: str


class OutputTokensDetails(TypedDict):
    """Of the generated tokens."""

    thinking_tokens: int


class MessageUsage(TypedDict):
    """What was counted; `input_tokens` are those that the cache did not have."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class TextBlock(TypedDict):
    """What the model said."""

    type: Literal["text"]
    text: str


class ThinkingBlock(TypedDict):
    """What the model thought; the signature is none."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(TypedDict):
    """A call for the client to make."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "tool_use", "stop_sequence"]


class Head(TypedDict):
    """What comes before the content."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str


class StopFields(TypedDict):
    """Why the model stopped."""

    stop_reason: StopReason
    stop_sequence: str | None


class AnsweredMessage(Head, StopFields):
    """The answer of a message."""

    content: list[Block]
    usage: MessageUsage


@open_ended
class MessageEvent(TypedDict):
    """The `data` of one server-sent event, whose name is its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class MessageTokens(TypedDict):
    """How long a prompt is."""

    input_tokens: int
