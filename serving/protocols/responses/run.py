"""One response from its request to its end: how it is generated, presented and saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.events import Finished, Usage
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.pipeline import Events
from serving.generation.prepare import prepare
from serving.harmony.built_in import called_tools
from serving.protocols.edge.event_log import LogReader
from serving.protocols.edge.generation import Prepared, RequestInfo, Services
from serving.protocols.edge.presenters import Streamed, Whole
from serving.protocols.responses.background import (
    Background,
    BackgroundResponse,
    no_events,
    public_error,
    stopped,
)
from serving.protocols.responses.context import Context
from serving.protocols.responses.listing import given_items
from serving.protocols.responses.object import Body, ResponseAnswer, ResponseObject
from serving.protocols.responses.output import ItemOptions, Output
from serving.protocols.responses.request import generation_request
from serving.protocols.responses.schema import (
    CODE_OUTPUTS,
    ENCRYPTED_REASONING,
    ResponsesRequest,
)
from serving.protocols.responses.stream import ResponseStream
from serving.settings import Settings
from serving.store.recent import Recent
from serving.tools.rounds import Allowance, Rounds


class Incoming(NamedTuple):
    """How a request came in."""

    info: RequestInfo
    recent: Recent | None = None
    """The responses of the connection, where it has many requests."""
    generate: bool = True
    """False: the prompt is only computed."""


class ResponseRun:
    """Runs one response. When its answer has ended, `release` is called."""

    def __init__(
        self,
        request: ResponsesRequest,
        context: Context,
        services: Services,
        incoming: Incoming,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ServingError for what the engine cannot do."""
        asked = generation_request(request, context, services.toolbox, incoming.info)
        settings, make_id = services.settings, services.make_id
        self._request = request
        self._context = context
        self._services = services
        self._recent = incoming.recent
        self._generate = incoming.generate
        self._release = release
        self._backend = services.fleet.find(asked.model)
        self._job = prepare(asked, self._backend, settings)
        tools = called_tools(self._job.built_in) if incoming.generate else ()
        self._executors = services.toolbox.executors(tools) if tools else None
        self._allowance = _allowance(request, self._job, self._backend, settings)
        self._kept = settings.store.enabled and request.store is not False
        self._begun = False
        self._response = ResponseObject(
            request,
            settings,
            Output(_options(request, self._backend, make_id()), make_id),
            services.now,
            model=self._backend.model,
            response_id=f"resp_{make_id()}",
            stored=self._kept,
        )
        self._saved = self._kept or request.conversation is not None or self._recent is not None
        self._items = given_items(request.items, context.referenced, make_id) if self._saved else []
        self._stream = ResponseStream(self._response) if request.stream else None

    async def connect(self) -> None:
        """Connects to the executors that the answer may need. Raises ServingError."""
        if self._executors is not None:
            await self._executors.open()

    def disconnect(self) -> None:
        """Closes the executors, for an answer that is not made."""
        if self._executors is not None:
            self._executors.close()

    def prepared(self) -> Prepared:
        """Returns the answer to a client that waits for it."""

        def run(accepted: float) -> Events:
            events = self._events(accepted)
            return self._saving(events) if self._saved else events

        return self._prepared(run, self._stream or ResponseAnswer(self._response))

    async def prepared_in(self, background: Background) -> Prepared:
        """Returns the beginning of an answer that is made in the background, or its stream.

        What is stored first is also what is true should the process end. Raises ServingError when
        it cannot be stored.
        """
        response, caller = self._response, self._job.caller
        if not await self._services.stores.responses.begin(
            caller.tenant,
            response.begun(),
            self._items,
            lost=response.failed(stopped()),
            events=b"" if self._stream else None,
        ):
            raise ServingError(
                ErrorKind.BODY_TOO_LARGE, "The conversation is larger than the store may be."
            )
        self._begun = True
        running = BackgroundResponse(response, self._stream, self._save)

        def run(accepted: float) -> Events:
            background.start(caller, self._events(accepted), running, self._release)
            return running.log.ticks() if self._stream else no_events()

        presenter = LogReader(running.log, 0) if self._stream else ResponseAnswer(response)
        return self._prepared(run, presenter)

    def _prepared(self, run: Callable[[float], Events], presenter: Whole | Streamed) -> Prepared:
        return Prepared(run, presenter, len(self._request.model_extra or ()))

    def _events(self, accepted: float) -> Events:
        """Returns the events of the answer, which was accepted at that time of the clock."""
        pipeline = self._backend.pipeline
        if not self._generate:
            sampling = msgspec.structs.replace(self._job.sampling, max_tokens=1, min_tokens=0)
            job = msgspec.structs.replace(self._job, sampling=sampling)
            return prepared_only(pipeline.run(job, accepted=accepted))
        if self._executors is None:
            return pipeline.run(self._job, accepted=accepted)
        rounds = Rounds(
            self._job,
            self._executors,
            self._allowance,
            self._backend.vocabulary,
            lambda job, started: pipeline.run(job, accepted=started),
            self._services.clock,
            pipeline.drain,
        )
        return rounds.events(accepted)

    async def _saving(self, events: Events) -> Events:
        """Yields `events`, and saves the response before its end is told.

        A response that failed is saved where its id has been told: after the first events. One
        whose client has left is not. What cannot be saved is told all the same, and says so.
        """
        told = False
        try:
            async for batch in events:
                yield batch
                told = True
        except Exception as error:
            if told:
                await self._try_to_save(self._response.failed(public_error(error)))
            raise
        else:
            await self._try_to_save(self._response.ended())
        finally:
            self._release()
            await events.aclose()

    async def _try_to_save(self, body: Body) -> None:
        try:
            self._response.stored = await self._save(body)
        except ServingError:
            self._response.leave_out()

    async def _save(self, body: Body, events: bytes | None = None) -> bool:
        """Returns whether the response can be had again. Only one that ended as an answer
        is added to the conversation.

        Raises ServingError.
        """
        ended = body["status"] in ("completed", "incomplete")
        conversation, stored = self._request.conversation, False
        try:
            if self._kept or conversation is not None:
                stored = await self._services.stores.responses.save(
                    self._job.caller.tenant,
                    body,
                    self._items,
                    kept=self._kept,
                    conversation=conversation if ended else None,
                    events=events,
                    begun=self._begun,
                )
        finally:
            if ended and self._recent is not None:
                items = [*self._items, *body["output"]]
                names = self._context.stored | ({body["id"]} if stored else frozenset())
                self._recent.remember(body["id"], self._context.history, items, names)
        return stored


async def prepared_only(events: Events) -> Events:
    """Yields the end of an answer without words: the prompt has been computed, and is cached.

    The one token that engines give for it is not the client's.
    """
    usage = Usage(0, 0, 0, 0)
    try:
        async for batch in events:
            for _, event in batch:
                if isinstance(event, Finished):
                    usage = Usage(event.usage.prompt_tokens, 0, 0, event.usage.cached_tokens)
    finally:
        await events.aclose()
    yield [(0, Finished(reason="stop", usage=usage))]


def _allowance(
    request: ResponsesRequest, job: Job, backend: Backend, settings: Settings
) -> Allowance:
    """Returns what a response may use, all of its rounds together."""
    most_calls, most_seconds = settings.tools.max_calls, settings.deadlines.total_seconds
    return Allowance(
        calls=min(request.max_tool_calls or most_calls, most_calls),
        context_tokens=backend.ready().max_seq_len,
        seconds=min(job.deadline_seconds or most_seconds, most_seconds),
    )


def _options(request: ResponsesRequest, backend: Backend, name: str) -> ItemOptions:
    reasoning = request.reasoning
    return ItemOptions(
        vocabulary=backend.vocabulary,
        summary=bool(reasoning and (reasoning.summary or reasoning.generate_summary)),
        encrypted=request.includes(ENCRYPTED_REASONING),
        outputs=request.includes(CODE_OUTPUTS),
        container_id=f"cntr_{name}",
    )
