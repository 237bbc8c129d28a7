"""What `/v1/embeddings` answers, as schemas for the description of the API."""

from __future__ import annotations

from typing import Literal

from serving.api.openapi.answers import Answer


class Embedding(Answer):
    """The vector of one input: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """What was counted."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
