"""What the Anthropic endpoints answer, as schemas for the description of the API."""

from __future__ import annotations

from typing import Any, Literal

from serving.api.openapi.answers import Answer, Open


class MessagesErrorObject(Answer):
    """What went wrong."""

    type: str
    message: str


class MessagesError(Answer):
    """Any error, with any status."""

    type: Literal["error"]
    error: MessagesErrorObject
    request_id: str


class OutputTokensDetails(Answer):
    """Of the generated tokens."""

    thinking_tokens: int


class MessageUsage(Answer):
    """What was counted; `input_tokens` are those that the cache did not have."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class TextBlock(Answer):
    """What the model said."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Answer):
    """What the model thought; the signature is none."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Answer):
    """A call for the client to make."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageAnswer(Answer):
    """The answer of a message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use", "stop_sequence"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Open):
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


class MessageTokens(Answer):
    """How long a prompt is."""

    input_tokens: int
