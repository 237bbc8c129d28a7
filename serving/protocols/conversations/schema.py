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
    """The items that it begins with, as in the `input` of a response."""
    metadata: Metadata | None = None
    """Texts with names, which are given back: up to 16."""


class UpdateConversation(_Body):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: Metadata | None
    """Takes the place of what was there; null: takes it away."""


class CreateItems(_Body):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=ITEMS_MAX)]
    """The items that are put at its end."""
