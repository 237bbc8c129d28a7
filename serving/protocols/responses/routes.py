"""The operations of the Responses API."""

from __future__ import annotations

from starlette.routing import WebSocketRoute

from serving.protocols.edge.answers import Json
from serving.protocols.edge.generation import Generation, Services
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.query import PAGE
from serving.protocols.responses import answers
from serving.protocols.responses.background import Background
from serving.protocols.responses.compaction import compaction
from serving.protocols.responses.endpoint import Responses
from serving.protocols.responses.listing import INCLUDE
from serving.protocols.responses.request import ROUTE
from serving.protocols.responses.schema import CompactRequest, ResponsesRequest, TokensRequest
from serving.protocols.responses.socket import ResponsesSocket
from serving.protocols.responses.stored import CancelledResponse, InputItems, StoredResponse
from serving.protocols.responses.tokens import input_tokens

_RESUMED: dict[str, Json] = {
    "stream": {"type": "boolean", "default": False},
    "starting_after": {"type": "integer", "minimum": 0},
}


def response_operations(
    services: Services, background: Background
) -> tuple[list[Operation], WebSocketRoute]:
    """Returns the operations, those with a name of ours before those with an id; and the socket."""
    root, one = "/v1/responses", "/v1/responses/{id}"
    made = Responses(services, background)
    stored = StoredResponse(services, background)
    operations = [
        Operation(
            "POST",
            root,
            Generation(ROUTE, services, made.prepare),
            "Create a response",
            gives=answers.Response,
            takes=(ResponsesRequest,),
            streams=answers.ResponseEvent,
        ),
        Operation(
            "POST",
            f"{root}/input_tokens",
            input_tokens(services, background),
            "Count the tokens of a response's prompt",
            gives=answers.InputTokenCount,
            takes=(TokensRequest,),
        ),
        Operation(
            "POST",
            f"{root}/compact",
            compaction(services, background),
            "Make a conversation shorter",
            gives=answers.CompactedResponse,
            takes=(CompactRequest,),
        ),
        Operation(
            "GET",
            one,
            stored,
            "Read a stored response, or its stream",
            gives=answers.Response,
            streams=answers.ResponseEvent,
            query=_RESUMED | INCLUDE,
        ),
        Operation("DELETE", one, stored, "Delete a stored response", gives=answers.DeletedResponse),
        Operation(
            "GET",
            f"{one}/input_items",
            InputItems(services.stores.responses),
            "List the items of a response's input",
            gives=answers.ItemList,
            query=PAGE | INCLUDE,
        ),
        Operation(
            "POST",
            f"{one}/cancel",
            CancelledResponse(services.stores.responses, background),
            "End a response in the background",
            gives=answers.Response,
        ),
    ]
    return operations, WebSocketRoute(root, ResponsesSocket(services, made.prepare_turn))
