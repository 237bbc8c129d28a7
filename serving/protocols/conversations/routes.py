"""The operations of the Conversations API."""

from __future__ import annotations

from serving.protocols.conversations.answers import ConversationObject, DeletedConversation
from serving.protocols.conversations.endpoint import Conversations, OneConversation
from serving.protocols.conversations.items import Items, OneItem
from serving.protocols.conversations.schema import (
    CreateConversation,
    CreateItems,
    UpdateConversation,
)
from serving.protocols.edge.generation import Services
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.query import PAGE
from serving.protocols.responses.answers import ItemList, ItemObject
from serving.protocols.responses.listing import INCLUDE


def conversation_operations(services: Services) -> list[Operation]:
    """Returns the operations."""
    root = "/v1/conversations"
    path, items_path, item_path = (f"{root}/{{id}}{end}" for end in ("", "/items", "/items/{item}"))
    one, items = OneConversation(services), Items(services)
    item = OneItem(services)
    made = Conversations(services)
    whole, gone = ConversationObject, DeletedConversation
    return [
        Operation("POST", root, made, "Make a conversation", whole, (CreateConversation,)),
        Operation("GET", path, one, "Read a conversation", whole),
        Operation(
            "POST", path, one, "Give a conversation other metadata", whole, (UpdateConversation,)
        ),
        Operation("DELETE", path, one, "Delete a conversation", gone),
        Operation(
            "GET",
            items_path,
            items,
            "List the items of a conversation",
            ItemList,
            query=PAGE | INCLUDE,
        ),
        Operation(
            "POST",
            items_path,
            items,
            "Add items to a conversation",
            ItemList,
            (CreateItems,),
            query=INCLUDE,
        ),
        Operation(
            "GET", item_path, item, "Read an item of a conversation", ItemObject, query=INCLUDE
        ),
        Operation("DELETE", item_path, item, "Take an item out of a conversation", whole),
    ]
