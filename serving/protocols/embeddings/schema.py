"""The request of Embeddings. Numbers and strings are not converted into one another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from serving.boundary.encoder.messages import Input
from serving.protocols.edge.fields import Accepted, Body
from serving.protocols.edge.sampling_schema import (
    Label,
    ModelName,
    limits_of,
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


class EmbeddingsRequest(Body):
    """The body of `POST /v1/embeddings`."""

    denied_fields = DENIED_FIELDS

    model: Annotated[
        ModelName, Field(description="One of `embeddings.served_model_names` in the settings.")
    ]
    input: list[Input]
    """A text, token ids, or a list of either; the setting `limits.embedding_inputs` says how many
    may be in it. None of them is empty. Names of control tokens, such as `[SEP]`, are text.
    Token ids are those of the encoder, without the two that stand around a text: clients that send
    OpenAI's have to send text (`check_embedding_ctx_length=False` in LangChain)."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """The encoder's, or one of the setting `embeddings.shorter_dimensions`: then a vector is cut
    and scaled to length 1. Any other is refused: a vector that was not trained for it is worse when
    cut."""
    encoding_format: Literal["float", "base64"] | None = None
    """`base64` is of little-endian float32; the official clients ask for it."""
    user: Accepted[Label] = None

    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    """Extension: cuts a text that is longer to so many tokens, the two around it included; -1 to
    as many as the encoder takes. Without it a text that is too long is a 400 with the numbers."""

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
