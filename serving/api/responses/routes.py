"""The addresses of the Responses API."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route, WebSocketRoute

from serving.api.generation import Generation, Surroundings
from serving.api.responses.background import Background
from serving.api.responses.compaction import compaction
from serving.api.responses.endpoint import Responses
from serving.api.responses.request import ROUTE
from serving.api.responses.socket import ResponsesSocket
from serving.api.responses.stored import CancelledResponse, InputItems, StoredResponse
from serving.api.responses.tokens import input_tokens
from serving.store.stores import Stores


def responses_routes(
    around: Surroundings, stores: Stores, background: Background
) -> list[BaseRoute]:
    """Returns the routes; those with a name of ours come before those with an id."""
    store = stores.responses
    made = Responses(around, stores, background)
    return [
        Route("/v1/responses", Generation(ROUTE, around, made.prepare), methods=["POST"]),
        WebSocketRoute("/v1/responses", ResponsesSocket(around, made.prepare_turn)),
        Route(
            "/v1/responses/input_tokens", input_tokens(around, stores, background), methods=["POST"]
        ),
        Route("/v1/responses/compact", compaction(around, stores, background), methods=["POST"]),
        Route(
            "/v1/responses/{id}",
            StoredResponse(around, store, background),
            methods=["GET", "DELETE"],
        ),
        Route("/v1/responses/{id}/input_items", InputItems(store), methods=["GET"]),
        Route("/v1/responses/{id}/cancel", CancelledResponse(store, background), methods=["POST"]),
    ]
