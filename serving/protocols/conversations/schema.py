"""The request bodies of the Conversations API."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from serving.protocols.edge.fields import Loose
from serving.protocols.responses.items import InputItem
from serving.protocols.responses.schema import Metadata

ITEMS_MAX = 20
"""As many as OpenAI takes in one request."""


class _Body(Loose):
    """A body whose unknown fields are kept, to count."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class CreateConversation(_Body):
    """The body of `POST /v1/conversations`."""

    items: Annotated[list[InputItem], Field(max_length=ITEMS_MAX)] | None = None
    metadata: Metadata | None = None


class UpdateConversation(_Body):
    """The body of `POST /v1/conversations/{id}`: null takes the metadata away."""

    metadata: Metadata | None


class CreateItems(_Body):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=ITEMS_MAX)]
