"""What the Responses API answers."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from serving.protocols.edge.answers import open_ended


class InputTokensDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Of the generated tokens."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """What was counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


@open_ended
class ItemObject(TypedDict):
    """An item; what else it has depends on its type."""

    id: str
    type: str


class ResponseError(TypedDict):
    """Why a response failed."""

    code: str
    message: str
    param: str | None
    type: str


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class EchoedFields(TypedDict):
    """What was asked for, or the default in its place."""

    model: str
    background: bool
    conversation: NotRequired[dict[str, str] | None]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: NotRequired[str]
    reasoning: dict[str, str | None]
    safety_identifier: NotRequired[str]
    service_tier: Literal["default"]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: NotRequired[str]


class Response(EchoedFields):
    """A response, and what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    error: ResponseError | None
    incomplete_details: dict[str, Any] | None
    output: list[ItemObject]
    usage: ResponseUsage | None
    store: bool


@open_ended
class ResponseEvent(TypedDict):
    """The `data` of one server-sent event, whose name is its type."""

    type: str
    sequence_number: int


class DeletedResponse(TypedDict):
    """A response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


@open_ended
class ItemList(TypedDict):
    """A page of items."""

    object: Literal["list"]
    data: list[ItemObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokenCount(TypedDict):
    """How long a prompt is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


@open_ended
class CompactedResponse(TypedDict):
    """A conversation in fewer tokens, as items to go on with."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[ItemObject]
    usage: ResponseUsage
