"""The request of Embeddings. Numbers and strings are not converted into one another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.boundary.encoder.messages import Input
from serving.protocols.edge.fields import Loose
from serving.protocols.edge.sampling_schema import (
    Label,
    ModelName,
    limits_of,
    refuse_denied,
    texts_or_tokens,
)

DENIED_FIELDS = frozenset(
    {
        *("add_special_tokens", "embed_dtype", "embedding_types", "endianness", "input_type"),
        *("instruction", "messages", "normalize", "pooling", "prompt_name", "task", "truncate"),
        *("truncation", "use_activation"),
    }
)
"""Fields of other servers that change the vectors; ignoring them would mislead."""


class EmbeddingsRequest(Loose):
    """The body of `POST /v1/embeddings`. Unknown fields are kept, to count."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    model: ModelName
    input: list[Input]
    """One or more inputs, however the request wrote them."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Label | None = None

    # An extension that other servers have too.
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_denied_field(cls, value: Any) -> Any:
        refuse_denied(value, DENIED_FIELDS)
        return value

    @field_validator(
        "input",
        mode="plain",
        json_schema_input_type=str | list[int] | list[str] | list[list[int]],
    )
    @classmethod
    def _inputs(cls, value: Any, info: ValidationInfo) -> list[Input]:
        return texts_or_tokens(value, "input", limits_of(info).embedding_inputs, _check)

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _room_for_text(cls, value: int | None) -> int | None:
        if value is not None and 0 <= value < _LEAST_TOKENS:
            raise PydanticCustomError(
                "truncate", "must be -1 or at least {n}", {"n": _LEAST_TOKENS}
            )
        return value


_LEAST_TOKENS = 3
"""One of the text between the two that stand around it."""


def _check(item: Any) -> None:
    """Raises a validation error unless `item` is a text or token ids, and not empty."""
    if not isinstance(item, str | list):
        raise PydanticCustomError(
            "input", "must be a text, token ids, a list of texts, or a list of lists of token ids"
        )
    if not item:
        raise PydanticCustomError("input", "must not be empty")
    if isinstance(item, list) and any(type(token) is not int for token in item):
        raise PydanticCustomError("token", "token ids must be whole numbers")
