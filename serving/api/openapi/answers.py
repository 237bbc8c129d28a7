"""What the OpenAI endpoints answer, as schemas for the description of the API.

Presenters write the JSON themselves, for speed; the tests hold what they write to these. A field
with a default may be absent.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """Part of an answer; it has no fields but these."""

    model_config = ConfigDict(extra="forbid")


class ErrorObject(Answer):
    """What went wrong; `param` names the field of the request."""

    message: str
    type: str
    param: str | None
    code: str


class Error(Answer):
    """Any error, with any status."""

    error: ErrorObject


class PromptTokensDetails(Answer):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(Answer):
    """Of the generated tokens."""

    reasoning_tokens: int


class Usage(Answer):
    """What was counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TokenAlternative(Answer):
    """A token that could have come, with its natural logarithm."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenAlternative):
    """A token that came."""

    top_logprobs: list[TokenAlternative]


class ChoiceLogprobs(Answer):
    """Of the content's tokens."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Answer):
    """Name and arguments of a call; the arguments are JSON text as the model wrote it."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A call for the client to make."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """What the model said. `reasoning_content` is `reasoning` by another name."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class ChatChoice(Answer):
    """One of the `n` answers."""

    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """The answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] = "default"
    choices: list[ChatChoice]
    usage: Usage


class CalledFunctionDelta(Answer):
    """The name with the first delta of a call, then pieces of the arguments."""

    name: str = ""
    arguments: str


class ToolCallDelta(Answer):
    """The id with the first delta of a call."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunctionDelta


class ChatDelta(Answer):
    """What a chunk adds."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCallDelta] = []


class ChatChunkChoice(Answer):
    """What a chunk adds to a choice."""

    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Answer):
    """The `data` of one server-sent event; the last one is `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] = "default"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextLogprobs(Answer):
    """Lists of equal length, an entry a token; the first token of a prompt has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Answer):
    """One of the answers."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletion(Answer):
    """The answer of a completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(Answer):
    """What a chunk adds to a choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletionChunk(Answer):
    """The `data` of one server-sent event; the last one is `[DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None


class Tokens(Answer):
    """A text or a conversation in token ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(Answer):
    """The text of token ids, by two names."""

    prompt: str
    text: str


class Health(Answer):
    """The state of the service, of its engine, and of the store, where that matters."""

    status: Literal["ok", "degraded", "draining", "unavailable"]
    engine: str
    store: Literal["ok", "read_only", "unavailable"] | None = None


class Open(BaseModel):
    """Part of an answer that may have more fields than these."""

    model_config = ConfigDict(extra="allow")


class Engine(Open):
    """The engine that serves a model."""

    name: str
    runtime: str
    digest: str
    checkpoint: str
    revision: str
    stand_in: bool


class Model(Open):
    """A model; the fields about its engine are there once the engine is known."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    type: Literal["chat", "embedding"]
    max_model_len: int = 0
    context_length: int = 0
    dimensions: int = 0
    """Of an encoder's vectors."""
    capabilities: dict[str, bool | list[str]] = {}
    engine: Engine | None = None


class ModelList(Open):
    """The names of the models."""

    object: Literal["list"]
    data: list[Model]
