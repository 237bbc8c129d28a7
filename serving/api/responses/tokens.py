"""`POST /v1/responses/input_tokens`: how long the prompt of a request is."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from serving.api.body import decode, require_json
from serving.api.exchange import exchange_of
from serving.api.generation import Surroundings
from serving.api.limits import read_body
from serving.api.replies import reply_json
from serving.api.responses.background import Background
from serving.api.responses.job import count_tokens
from serving.api.responses.kept import needs_store, plain_context, read_context
from serving.api.responses.schema import TokensRequest
from serving.api.responses.tool_choice import built_in_use
from serving.store.stores import Stores

ROUTE = "responses.input_tokens"


class InputTokens:
    """Renders what a request would give the model, and counts it. Nothing is generated."""

    def __init__(self, around: Surroundings, stores: Stores, background: Background) -> None:
        self._around = around
        self._background = background
        self._stores = stores

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        exchange_of(scope, ROUTE)
        require_json(scope)
        around = self._around
        settings, backend = around.settings, around.backend()
        body = await read_body(receive)
        request = await asyncio.to_thread(decode, body, TokensRequest, settings.limits)
        around.count_unknown(len(request.model_extra or ()))
        if needs_store(request):
            context = await read_context(request, self._stores, self._background, settings)
        else:
            context = plain_context(request)
        use = built_in_use(request, around.toolbox)
        tokens = await asyncio.to_thread(count_tokens, request, context, backend, settings, use)
        await reply_json(send, {"object": "response.input_tokens", "input_tokens": tokens})
