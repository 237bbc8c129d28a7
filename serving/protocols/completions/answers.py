"""What Completions answers."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from serving.events import FinishReason
from serving.protocols.edge.usage import Usage


class TextLogprobs(TypedDict):
    """Lists of equal length, an entry a token; the first token of a prompt has null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One of the answers."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class Head(TypedDict):
    """What comes before the choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str


class TextCompletion(Head):
    """The answer of a completion."""

    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(TypedDict):
    """What a chunk adds to a choice."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletionChunk(Head):
    """The `data` of one server-sent event; the last one is `[DONE]`."""

    choices: list[TextChunkChoice]
    usage: NotRequired[Usage | None]
