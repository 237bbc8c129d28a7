"""The request bodies of the Conversations API."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from serving.api.fields import Loose
from serving.api.responses.items import InputItem
from serving.api.responses.schema import Metadata
from serving.api.sampling_schema import at_most

ITEMS_MAX = 20
"""As many as OpenAI takes in one request."""


class _Body(Loose):
    """A body whose unknown fields are kept, to count."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class CreateConversation(_Body):
    """The body of `POST /v1/conversations`."""

    items: list[InputItem] | None = None
    metadata: Metadata | None = None

    @field_validator("items")
    @classmethod
    def _few(cls, value: list[InputItem] | None) -> list[InputItem] | None:
        return value if value is None else at_most(value, ITEMS_MAX, "items")


class UpdateConversation(_Body):
    """The body of `POST /v1/conversations/{id}`: null takes the metadata away."""

    metadata: Metadata | None


class CreateItems(_Body):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[InputItem], Field(min_length=1)]

    @field_validator("items")
    @classmethod
    def _few(cls, value: list[InputItem]) -> list[InputItem]:
        return at_most(value, ITEMS_MAX, "items")
