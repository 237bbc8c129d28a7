"""`POST /v1/responses`, and the same on a connection that has many requests."""

from __future__ import annotations

from contextlib import ExitStack

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.answers import Json
from serving.protocols.edge.body import check, decode
from serving.protocols.edge.generation import Pending, Prepared, RequestInfo, Services
from serving.protocols.responses.background import Background
from serving.protocols.responses.context import (
    Context,
    needs_store,
    read_context,
    require_store,
)
from serving.protocols.responses.run import Incoming, ResponseRun
from serving.protocols.responses.schema import ResponsesRequest
from serving.protocols.responses.tool_choice import has_hosted_tools
from serving.store.recent import Recent


class Responses:
    """Makes the responses of a service, and stores those that ask for it."""

    def __init__(self, services: Services, background: Background) -> None:
        self._services = services
        self._background = background

    def prepare(self, body: bytes, info: RequestInfo) -> Prepared | Pending:
        """Returns the answer to a body of HTTP. Raises ServingError."""
        request = decode(body, ResponsesRequest, self._services.settings.limits)
        return self._prepare(request, Incoming(info))

    def prepare_turn(self, fields: Json, info: RequestInfo, recent: Recent) -> Prepared | Pending:
        """Returns the answer to a request on a connection. Raises ServingError.

        With `generate` false nothing is written: the prompt is computed, and can be continued.
        """
        generate = fields.pop("generate", None)
        if not (generate is None or isinstance(generate, bool)):
            raise ServingError(
                ErrorKind.INVALID_VALUE, "'generate' must be true or false.", param="generate"
            )
        request = check(fields, ResponsesRequest, self._services.settings.limits)
        return self._prepare(request, Incoming(info, recent, generate is not False))

    def _prepare(self, request: ResponsesRequest, incoming: Incoming) -> Prepared | Pending:
        require_store(request, self._services.settings, incoming.recent)
        if request.prewarms:
            incoming = incoming._replace(generate=False)
        if not (needs_store(request) or request.background or has_hosted_tools(request)):
            return ResponseRun(request, Context(request.items), self._services, incoming).prepared()
        return Pending(lambda: self._finish(request, incoming))

    async def _finish(self, request: ResponsesRequest, incoming: Incoming) -> Prepared:
        services, background = self._services, self._background
        caller = incoming.info.caller
        held, undo = ExitStack(), ExitStack()
        with undo:
            undo.push(held)
            if request.conversation is not None:
                lock = services.stores.conversations.lock(caller.tenant, request.conversation)
                held.callback(lock.release)
            context = await read_context(request, caller, services, background, incoming.recent)
            # A conversation may be long, whatever the request is.
            run = await services.reading.run(
                ResponseRun, request, context, services, incoming, held.close
            )
            undo.callback(run.disconnect)
            await run.connect()
            prepared = await run.prepared_in(background) if request.background else run.prepared()
            undo.pop_all()
        return prepared
