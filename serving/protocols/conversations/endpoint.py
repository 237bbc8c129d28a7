"""`/v1/conversations` and `/v1/conversations/{id}`."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from serving.errors import ErrorKind, ServingError
from serving.protocols.conversations.answers import ConversationObject, DeletedConversation
from serving.protocols.conversations.schema import CreateConversation, UpdateConversation
from serving.protocols.edge.body import decode, require_json
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.generation import Services
from serving.protocols.edge.limits import read_body
from serving.protocols.edge.replies import reply_json
from serving.protocols.responses.context import read_references
from serving.protocols.responses.listing import given_items
from serving.settings import Settings
from serving.store.conversations import Conversation

ROUTE = "conversations"


class Conversations:
    """Makes a conversation."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        services, stores = self._services, self._services.stores
        require_store(services.settings)
        require_json(scope)
        body = await read_body(receive) or b"{}"
        request = await services.reading.run_sized(
            len(body), decode, body, CreateConversation, services.settings.limits
        )
        services.count_unknown(len(request.model_extra or ()))
        items = request.items or []
        referenced = await read_references(items, caller, stores, "items")
        made = await stores.conversations.create(
            caller.tenant,
            f"conv_{services.make_id()}",
            request.metadata or {},
            given_items(items, referenced, services.make_id),
        )
        await reply_json(send, conversation_object(made))


class OneConversation:
    """`GET` gives a conversation, `POST` gives it other metadata, `DELETE` takes it away.

    Its items go with it; what responses of it are stored stays.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._conversations = services.stores.conversations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        caller = exchange_of(scope, ROUTE).caller
        services = self._services
        require_store(services.settings)
        name = scope["path_params"]["id"]
        if scope["method"] == "DELETE":
            if not await self._conversations.delete(caller.tenant, name):
                raise missing_conversation()
            deleted: DeletedConversation = {
                "id": name,
                "object": "conversation.deleted",
                "deleted": True,
            }
            await reply_json(send, deleted)
            return
        if scope["method"] == "POST":
            require_json(scope)
            body = await read_body(receive)
            request = await services.reading.run_sized(
                len(body), decode, body, UpdateConversation, services.settings.limits
            )
            services.count_unknown(len(request.model_extra or ()))
            found = await self._conversations.update(caller.tenant, name, request.metadata or {})
        else:
            found = await self._conversations.load(caller.tenant, name)
        if found is None:
            raise missing_conversation()
        await reply_json(send, conversation_object(found))


def require_store(settings: Settings) -> None:
    """Raises ServingError (NOT_FOUND) where nothing is kept."""
    if not settings.store.enabled:
        raise ServingError(
            ErrorKind.NOT_FOUND, "Conversations need the store, which is off in this service."
        )


def conversation_object(conversation: Conversation) -> ConversationObject:
    """Returns OpenAI's object."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created,
        "metadata": conversation.metadata,
    }


def missing_conversation() -> ServingError:
    """Returns the error for an id that names no conversation."""
    return ServingError(ErrorKind.NOT_FOUND, "There is no such conversation here.")
