"""`POST /v1/responses`."""

from __future__ import annotations

import asyncio

from serving.api.body import decode
from serving.api.generation import Generation, Pending, Prepared, Surroundings
from serving.api.responses.answer import ResponseAnswer
from serving.api.responses.background import Background, Begun, interrupted, no_events
from serving.api.responses.job import ROUTE, make_response_job
from serving.api.responses.kept import (
    TENANT,
    Context,
    given_items,
    keeping,
    needs_store,
    plain_context,
    read_context,
)
from serving.api.responses.object import Body, ResponseObject
from serving.api.responses.output import ItemOptions, Output
from serving.api.responses.schema import ENCRYPTED_REASONING, ResponsesRequest
from serving.api.responses.stream import ResponseStream
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.pipeline import Events
from serving.store.responses import ResponseStore


def responses(around: Surroundings, store: ResponseStore, background: Background) -> Generation:
    """Returns the endpoint that makes responses, and keeps in `store` those that ask for it."""
    settings = around.settings

    def prepare(body: bytes, job_id: str, seconds: float | None) -> Prepared | Pending:
        request = decode(body, ResponsesRequest, settings.limits)
        if request.background and not settings.store.enabled:
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                "'background' needs the store of responses, which is off.",
                param="background",
            )
        if not needs_store(request) and not request.background:
            answer = Answer(request, plain_context(request), around, store, job_id, seconds)
            return answer.prepared()

        async def finish() -> Prepared:
            context = await read_context(request, store, background, settings)
            # A conversation may be long, whatever the request is.
            answer = await asyncio.to_thread(
                Answer, request, context, around, store, job_id, seconds
            )
            if request.background:
                return await answer.prepared_in(background)
            return answer.prepared()

        return Pending(finish)

    return Generation(ROUTE, around, prepare)


class Answer:
    """One response that is to be made: its job, its object, its output, and how it is saved."""

    def __init__(
        self,
        request: ResponsesRequest,
        context: Context,
        around: Surroundings,
        store: ResponseStore,
        job_id: str,
        deadline_seconds: float | None,
    ) -> None:
        """Raises ServingError for what the engine cannot do."""
        self._backend, settings = around.backend(), around.settings
        self._job = make_response_job(
            request,
            context,
            self._backend,
            settings,
            job_id=job_id,
            deadline_seconds=deadline_seconds,
        )
        self._output = Output(_options(request, self._backend), around.make_id)
        self._response = ResponseObject(
            request,
            settings,
            response_id=f"resp_{around.make_id()}",
            created=around.now(),
            stored=settings.store.enabled and request.store is not False,
        )
        self._items = given_items(request, context, around.make_id) if self._response.stored else []
        self._presenter = ResponseStream if request.stream else ResponseAnswer
        self._unknown_fields = len(request.model_extra or ())
        self._store = store
        self._now = around.now

    def prepared(self) -> Prepared:
        """Returns the answer to a client that waits for it."""
        response, output = self._response, self._output

        def run(accepted: float) -> Events:
            events = self._backend.pipeline.run(self._job, accepted=accepted)
            if not response.stored:
                return events
            return keeping(events, output, response, self._save, self._now)

        presenter = self._presenter(response, output, self._now)
        return Prepared(run, presenter, self._unknown_fields)

    async def prepared_in(self, background: Background) -> Prepared:
        """Returns the beginning of an answer that is made in the background.

        What is stored first is what is true should the process end. Raises ServingError when it
        cannot be stored.
        """
        response, output = self._response, self._output
        if not await self._save(interrupted(response, output)):
            raise ServingError(ErrorKind.INTERNAL, "The store of responses cannot be used.")

        def run(accepted: float) -> Events:
            events = self._backend.pipeline.run(self._job, accepted=accepted)
            background.start(events, response, output, self._save)
            return no_events()

        return Prepared(run, Begun(response, output), self._unknown_fields)

    async def _save(self, body: Body) -> bool:
        return await self._store.save(TENANT, body, self._items)


def _options(request: ResponsesRequest, backend: Backend) -> ItemOptions:
    reasoning = request.reasoning
    return ItemOptions(
        vocabulary=backend.vocabulary,
        summary=bool(reasoning and (reasoning.summary or reasoning.generate_summary)),
        encrypted=request.includes(ENCRYPTED_REASONING),
    )
