"""The request of Completions: raw text or token ids in, raw text out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from serving.harmony.vocabulary import SIZE
from serving.protocols.edge.fields import refuse
from serving.protocols.edge.sampling_schema import (
    DENIED_FIELDS,
    ModelName,
    SamplingFields,
    at_most_number,
    limits_of,
    texts_or_tokens,
)

TokenId = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": SIZE - 1})]
"""A token of the vocabulary; `check_ids` sees to it that it is one."""
Prompt = str | list[int]
"""A text, or its token ids."""


class CompletionRequest(SamplingFields):
    """The body of `POST /v1/completions`."""

    denied_fields = DENIED_FIELDS

    model: ModelName
    prompt: list[Prompt] | None = None
    """A text, token ids, or a list of either; the setting `limits.prompts` says how many may be in
    it. `<|start|>` in a text is text; as a token id it is the control token. Without a prompt
    a new document begins (`<|endoftext|>`)."""

    best_of: Annotated[int, Field(ge=1)] | None = None
    """As `n`: every choice that is generated is returned."""
    echo: bool | None = None
    """Puts the prompt before the text. With `logprobs` the prompt's tokens come with theirs too,
    the first with null; such a prompt is computed anew, cached or not, 64 tokens a step.
    TensorRT-LLM's runtime refuses the two together."""
    logprobs: Annotated[int, Field(ge=0)] | None = None
    """How many alternatives are shown for each token, in the shape `tokens`, `token_logprobs`,
    `top_logprobs`, `text_offset`. A token that is no whole UTF-8 is `bytes:\\xe2\\x80`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of a choice; 16 without it."""
    suffix: Annotated[
        Any, refuse("is not supported: this model was not trained to fill in the middle")
    ] = None

    @field_validator(
        "prompt",
        mode="plain",
        json_schema_input_type=str | list[TokenId] | list[str] | list[list[TokenId]] | None,
    )
    @classmethod
    def _prompts(cls, value: Any, info: ValidationInfo) -> list[Prompt] | None:
        if value is None:
            return None
        return texts_or_tokens(value, "prompt", limits_of(info).prompts, check_prompt)

    @field_validator("logprobs")
    @classmethod
    def _few_alternatives(cls, value: int | None, info: ValidationInfo) -> int | None:
        return at_most_number(value, limits_of(info).top_logprobs)


def check_prompt(prompt: Any) -> None:
    """Raises a validation error unless `prompt` is text or token ids, and not empty."""
    if not isinstance(prompt, str | list):
        raise PydanticCustomError(
            "prompt", "must be a text, token ids, a list of texts, or a list of lists of token ids"
        )
    if not prompt:
        raise PydanticCustomError("prompt", "must not be empty")
    if isinstance(prompt, list):
        check_ids(prompt)


def check_ids(tokens: list[Any]) -> None:
    """Raises a validation error unless `tokens` are ids of the vocabulary."""
    if any(type(token) is not int for token in tokens):
        raise PydanticCustomError("token", "token ids must be whole numbers")
    if tokens and not (min(tokens) >= 0 and max(tokens) < SIZE):
        raise PydanticCustomError("token", "token ids go from 0 to {n}", {"n": SIZE - 1})
