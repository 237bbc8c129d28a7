"""What Chat Completions answers."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from serving.events import FinishReason
from serving.protocols.edge.logprobs import ChoiceLogprobs
from serving.protocols.edge.usage import Usage


class CalledFunction(TypedDict):
    """Name and arguments of a call; the arguments are JSON text as the model wrote it."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call for the client to make."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    """What the model said. `reasoning_content` is `reasoning` by another name."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One of the `n` answers."""

    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """The answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[ChatChoice]
    usage: Usage


class CalledFunctionDelta(TypedDict):
    """The name with the first delta of a call, then pieces of the arguments."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """The id with the first delta of a call."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: CalledFunctionDelta


class ChatDelta(TypedDict):
    """What a chunk adds."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChatChunkChoice(TypedDict):
    """What a chunk adds to a choice."""

    index: int
    delta: ChatDelta
    logprobs: NotRequired[ChoiceLogprobs | None]
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """The `data` of one server-sent event; the last one is `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
