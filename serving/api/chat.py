"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from serving.api.body import decode, require_json
from serving.api.chat_answer import ChatAnswer
from serving.api.chat_facts import ChatFacts
from serving.api.chat_job import make_job
from serving.api.chat_schema import ChatRequest
from serving.api.chat_stream import ChatStream, encode_error
from serving.api.connection import Connection
from serving.api.exchange import exchange_of
from serving.api.limits import read_body
from serving.api.replies import reply_json
from serving.api.timeout import requested_seconds
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.job import Job
from serving.pipeline import Events
from serving.settings import Settings

ROUTE = "chat.completions"

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ChatCompletions:
    """The endpoint, an ASGI application.

    `backend` returns what serves now, or raises ServingError; `known` returns it or None. `now` is
    the time of day in seconds since 1970, `make_id` returns a new random id each time.
    """

    def __init__(
        self,
        settings: Settings,
        backend: Callable[[], Backend],
        known: Callable[[], Backend | None],
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        make_id: Callable[[], str],
        count_unknown: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._known = known
        self._clock = clock
        self._now = now
        self._make_id = make_id
        self._count_unknown = count_unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError for one that fails before its response."""
        exchange = exchange_of(scope, ROUTE)
        require_json(scope)
        if (known := self._known()) is not None:
            known.pipeline.admission.require_room()
        body = await read_body(receive)
        slow_client_seconds = self._settings.deadlines.slow_client_seconds
        async with Connection(receive, send, self._clock, slow_client_seconds) as connection:
            seconds = requested_seconds(scope)
            if len(body) > self._settings.limits.thread_body_bytes:
                request, backend, job = await asyncio.to_thread(
                    self._prepare, body, exchange.request_id, seconds
                )
            else:
                request, backend, job = self._prepare(body, exchange.request_id, seconds)
            self._count_unknown(len(request.model_extra or ()))
            facts = self._facts(request, backend, job)
            events = backend.pipeline.run(job, accepted=exchange.accepted)
            exchange.recorded = True
            try:
                if request.stream:
                    usage = request.stream_options and request.stream_options.include_usage
                    stream = ChatStream(facts, include_usage=bool(usage))
                    await _send_stream(connection, events, stream)
                else:
                    await _send_answer(connection, events, ChatAnswer(facts))
            finally:
                await events.aclose()

    def _prepare(
        self, body: bytes, job_id: str, deadline_seconds: float | None
    ) -> tuple[ChatRequest, Backend, Job]:
        """Returns the checked request and its job. The part that costs time: may be in a thread."""
        request = decode(body, ChatRequest, self._settings.limits)
        backend = self._backend()
        job = make_job(
            request, backend, self._settings, job_id=job_id, deadline_seconds=deadline_seconds
        )
        return request, backend, job

    def _facts(self, request: ChatRequest, backend: Backend, job: Job) -> ChatFacts:
        return ChatFacts(
            id=f"chatcmpl-{self._make_id()}",
            created=int(self._now()),
            model=self._settings.model,
            fingerprint=backend.fingerprint,
            choices=job.choices,
            service_tier=None if request.service_tier is None else "default",
            vocabulary=backend.vocabulary,
            make_call_id=lambda: f"call_{self._make_id()}",
        )


async def _send_answer(connection: Connection, events: Events, answer: ChatAnswer) -> None:
    async for batch in events:
        answer.add(batch)
    await reply_json(connection.send, answer.body())


async def _send_stream(connection: Connection, events: Events, stream: ChatStream) -> None:
    """Sends the events as they come; the response begins with the first of them.

    A failure before it is raised; one after it becomes the stream's last event.
    """
    send = connection.send
    first = await anext(events)
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
    body = stream.begin() + stream.encode(first)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async for batch in events:
            body = stream.encode(batch)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        last = stream.end()
    except ServingError as error:
        last = encode_error(error)
    except Exception:
        last = encode_error(ServingError(ErrorKind.INTERNAL, "The server failed to go on."))
        await send({"type": "http.response.body", "body": last})
        raise
    await send({"type": "http.response.body", "body": last})
