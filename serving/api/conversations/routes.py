"""The addresses of the Conversations API."""

from __future__ import annotations

from starlette.routing import Route

from serving.api.conversations.endpoint import Conversations, OneConversation
from serving.api.conversations.items import Items, OneItem
from serving.api.generation import Surroundings
from serving.store.stores import Stores


def conversations_routes(around: Surroundings, stores: Stores) -> list[Route]:
    """Returns the routes."""
    root = "/v1/conversations"
    one, items = OneConversation(around, stores), Items(around, stores)
    item = OneItem(around, stores)
    return [
        Route(root, Conversations(around, stores), methods=["POST"]),
        Route(f"{root}/{{id}}", one, methods=["GET", "POST", "DELETE"]),
        Route(f"{root}/{{id}}/items", items, methods=["GET", "POST"]),
        Route(f"{root}/{{id}}/items/{{item}}", item, methods=["GET", "DELETE"]),
    ]
