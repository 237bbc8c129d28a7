"""`POST /v1/responses/input_tokens`: how long the prompt of a request is."""

from __future__ import annotations

import msgspec

from serving.generation.prepare import render_prompt
from serving.protocols.edge.body import decode
from serving.protocols.edge.computation import Computation
from serving.protocols.edge.exchange import Exchange
from serving.protocols.edge.generation import Services
from serving.protocols.responses.background import Background
from serving.protocols.responses.context import read_context
from serving.protocols.responses.request import dialogue
from serving.protocols.responses.schema import TokensRequest

ROUTE = "responses.input_tokens"


def input_tokens(services: Services, background: Background) -> Computation:
    """Returns the endpoint that renders what a request would give the model, and counts it."""
    settings = services.settings

    async def answer(body: bytes, exchange: Exchange) -> bytes:
        request = await services.counting.run_sized(
            len(body), decode, body, TokensRequest, settings.limits
        )
        services.count_unknown(len(request.model_extra or ()))
        context = await read_context(request, exchange.caller, services, background)
        engine = services.fleet.find(request.model)
        prompt = dialogue(request, context, services.toolbox)
        # A conversation may be long, whatever the request is.
        tokens = await services.counting.run(render_prompt, prompt, engine, settings)
        count = {"object": "response.input_tokens", "input_tokens": len(tokens)}
        return msgspec.json.encode(count)

    return Computation(ROUTE, services, answer)
