"""`POST /v1/responses`, and the same on a connection that has many requests."""

from __future__ import annotations

from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.body import check, decode
from serving.protocols.edge.generation import Pending, Prepared, RequestInfo, Surroundings
from serving.protocols.responses.background import Background
from serving.protocols.responses.draft import Asking, Draft
from serving.protocols.responses.kept import (
    Json,
    needs_store,
    plain_context,
    read_context,
    require_store,
)
from serving.protocols.responses.recent import Recent
from serving.protocols.responses.schema import ResponsesRequest
from serving.protocols.responses.tool_choice import has_hosted_tools
from serving.store.stores import Stores


class Responses:
    """Makes the responses of a service, and keeps in `stores` those that ask for it."""

    def __init__(self, around: Surroundings, stores: Stores, background: Background) -> None:
        self._around = around
        self._stores = stores
        self._background = background

    def prepare(self, body: bytes, info: RequestInfo) -> Prepared | Pending:
        """Returns the answer to a body of HTTP. Raises ServingError."""
        request = decode(body, ResponsesRequest, self._around.settings.limits)
        return self._prepare(request, Asking(info))

    def prepare_turn(self, fields: Json, info: RequestInfo, recent: Recent) -> Prepared | Pending:
        """Returns the answer to a request on a connection. Raises ServingError.

        With `generate` false nothing is written: the prompt is computed, and can be continued.
        """
        generate = fields.pop("generate", None)
        if not (generate is None or isinstance(generate, bool)):
            raise ServingError(
                ErrorKind.INVALID_VALUE, "'generate' must be true or false.", param="generate"
            )
        request = check(fields, ResponsesRequest, self._around.settings.limits)
        return self._prepare(request, Asking(info, recent, generate is not False))

    def _prepare(self, request: ResponsesRequest, asking: Asking) -> Prepared | Pending:
        require_store(request, self._around.settings, asking.recent)
        if request.prewarms:
            asking = asking._replace(generate=False)
        if not (needs_store(request) or request.background or has_hosted_tools(request)):
            context = plain_context(request)
            return Draft(request, context, self._around, self._stores, asking).prepared()
        return Pending(lambda: self._finish(request, asking))

    async def _finish(self, request: ResponsesRequest, asking: Asking) -> Prepared:
        around, stores, background = self._around, self._stores, self._background
        caller = asking.info.caller
        hold, draft = None, None
        if request.conversation is not None:
            hold = stores.conversations.hold(caller.tenant, request.conversation)
        try:
            context = await read_context(
                request, caller, stores, background, around.settings, asking.recent
            )
            # A conversation may be long, whatever the request is.
            draft = await around.reading.run(Draft, request, context, around, stores, asking, hold)
            await draft.connect()
            if request.background:
                return await draft.prepared_in(background)
            return draft.prepared()
        except BaseException:
            if hold is not None:
                hold.release()
            if draft is not None:
                draft.disconnect()
            raise
