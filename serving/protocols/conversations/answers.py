"""What the Conversations API answers."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class ConversationObject(TypedDict):
    """A list of items with a name, without them."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(TypedDict):
    """A conversation that is no more."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]
