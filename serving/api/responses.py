"""`POST /v1/responses`."""

from __future__ import annotations

import asyncio

from serving.api.body import decode
from serving.api.generation import Generation, Pending, Prepared, Surroundings
from serving.api.responses_answer import ResponseAnswer
from serving.api.responses_job import ROUTE, make_response_job
from serving.api.responses_kept import (
    TENANT,
    Context,
    Json,
    given_items,
    keeping,
    needs_store,
    plain_context,
    read_context,
)
from serving.api.responses_object import ResponseObject
from serving.api.responses_output import ItemOptions, Output
from serving.api.responses_schema import ENCRYPTED_REASONING, ResponsesRequest
from serving.api.responses_stream import ResponseStream
from serving.backend import Backend
from serving.pipeline import Events
from serving.store.responses import ResponseStore


def responses(around: Surroundings, store: ResponseStore) -> Generation:
    """Returns the endpoint that makes responses, and keeps in `store` those that ask for it."""
    settings = around.settings

    def prepare(body: bytes, job_id: str, seconds: float | None) -> Prepared | Pending:
        request = decode(body, ResponsesRequest, settings.limits)
        if not needs_store(request):
            context = plain_context(request)
            return _prepared(request, context, around, store, job_id, seconds)

        async def finish() -> Prepared:
            context = await read_context(request, store, settings)
            # A conversation may be long, whatever the request is.
            return await asyncio.to_thread(
                _prepared, request, context, around, store, job_id, seconds
            )

        return Pending(finish)

    return Generation(ROUTE, around, prepare)


def _prepared(
    request: ResponsesRequest,
    context: Context,
    around: Surroundings,
    store: ResponseStore,
    job_id: str,
    deadline_seconds: float | None,
) -> Prepared:
    backend, settings = around.backend(), around.settings
    job = make_response_job(
        request, context, backend, settings, job_id=job_id, deadline_seconds=deadline_seconds
    )
    output = Output(_options(request, backend), around.make_id)
    response = ResponseObject(
        request,
        settings,
        response_id=f"resp_{around.make_id()}",
        created=around.now(),
        stored=settings.store.enabled and request.store is not False,
    )
    presenter = ResponseStream if request.stream else ResponseAnswer

    async def save(body: Json) -> bool:
        return await store.save(TENANT, body, given_items(request, context, around.make_id))

    def run(accepted: float) -> Events:
        events = backend.pipeline.run(job, accepted=accepted)
        return keeping(events, output, response, save, around.now) if response.stored else events

    return Prepared(
        run=run,
        presenter=presenter(response, output, around.now),
        unknown_fields=len(request.model_extra or ()),
    )


def _options(request: ResponsesRequest, backend: Backend) -> ItemOptions:
    reasoning = request.reasoning
    return ItemOptions(
        vocabulary=backend.vocabulary,
        summary=bool(reasoning and (reasoning.summary or reasoning.generate_summary)),
        encrypted=request.includes(ENCRYPTED_REASONING),
    )
