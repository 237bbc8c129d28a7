"""What the Responses endpoints answer, as schemas for the description of the API."""

from __future__ import annotations

from typing import Any, Literal

from serving.api.openapi.answers import Answer, Open


class InputTokensDetails(Answer):
    """Of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Answer):
    """Of the generated tokens."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """What was counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Item(Open):
    """An item; what else it has depends on its type."""

    id: str
    type: str


class ResponseError(Open):
    """Why a response failed."""

    code: str
    message: str


class Response(Open):
    """A response, and what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: dict[str, Any] | None
    output: list[Item]
    usage: ResponseUsage | None
    model: str
    store: bool
    background: bool
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    temperature: float
    top_p: float


class ResponseEvent(Open):
    """The `data` of one server-sent event, whose name is its type."""

    type: str
    sequence_number: int


class DeletedResponse(Answer):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(Open):
    """A page of items."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokenCount(Answer):
    """How long a prompt is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedResponse(Open):
    """A conversation in fewer tokens, as items to go on with."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[Item]
    usage: ResponseUsage


class Conversation(Answer):
    """A list of items with a name, without them."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(Answer):
    """A conversation that is no more."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]
