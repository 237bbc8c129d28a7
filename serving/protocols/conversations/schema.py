"""The request bodies of the Conversations API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serving.protocols.edge.fields import Body
from serving.protocols.responses.items import InputItem
from serving.protocols.responses.schema import Metadata

ITEMS_MAX = 20
"""As many as OpenAI takes in one request."""


class CreateConversation(Body):
    """The body of `POST /v1/conversations`."""

    items: Annotated[list[InputItem], Field(max_length=ITEMS_MAX)] | None = None
    """The items that it begins with, as in the `input` of a response."""
    metadata: Metadata | None = None
    """Texts with names, which are given back: up to 16."""


class UpdateConversation(Body):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: Metadata | None
    """Takes the place of what was there; null: takes it away."""


class CreateItems(Body):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=ITEMS_MAX)]
    """The items that are put at its end."""
