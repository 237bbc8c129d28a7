"""One response that is to be made: its job, its object, its output, and how it is saved."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from serving.errors import ErrorKind, ServingError
from serving.events import Finished, Usage
from serving.generation.backend import Backend
from serving.generation.job import Job
from serving.generation.pipeline import Events
from serving.generation.prepare import prepare
from serving.harmony.built_in import called_tools
from serving.protocols.edge.generation import Prepared, RequestInfo, Surroundings
from serving.protocols.responses.answer import ResponseAnswer
from serving.protocols.responses.background import Background, Begun, Making, no_events, stopped
from serving.protocols.responses.kept import Context, Json, given_items, keeping
from serving.protocols.responses.object import Body, ResponseObject
from serving.protocols.responses.output import ItemOptions, Output
from serving.protocols.responses.recent import Recent
from serving.protocols.responses.request import generation_request
from serving.protocols.responses.schema import (
    CODE_OUTPUTS,
    ENCRYPTED_REASONING,
    ResponsesRequest,
)
from serving.protocols.responses.stream import ResponseStream
from serving.protocols.responses.tape import Playback
from serving.settings import Settings
from serving.store.conversations import Hold
from serving.store.stores import Stores
from serving.tools.rounds import Allowance, Rounds


class Asking(NamedTuple):
    """How a request came, and over which connection."""

    info: RequestInfo
    recent: Recent | None = None
    """The responses of the connection, where it has many requests."""
    generate: bool = True
    """False: nothing is written, the prompt is only computed."""


class Draft:
    """A response from its request to the answer that is prepared."""

    def __init__(
        self,
        request: ResponsesRequest,
        context: Context,
        around: Surroundings,
        stores: Stores,
        asking: Asking,
        hold: Hold | None = None,
    ) -> None:
        """`hold` is that on the request's conversation, released when the answer has ended.

        Raises ServingError for what the engine cannot do.
        """
        wanted = generation_request(request, context, around.toolbox, asking.info)
        settings = around.settings
        self._backend = around.fleet.find(wanted.model)
        self._job = prepare(wanted, self._backend, settings)
        self._executors = (
            around.toolbox.executors(called_tools(self._job.built_in))
            if self._job.built_in and asking.generate
            else None
        )
        self._allowance = _allowance(request, self._job, self._backend, settings)
        self._clock = around.clock
        self._output = Output(_options(request, self._backend, around.make_id()), around.make_id)
        self._response = ResponseObject(
            request,
            settings,
            model=self._backend.model,
            response_id=f"resp_{around.make_id()}",
            created=around.now(),
            stored=settings.store.enabled and request.store is not False,
        )
        self._kept = self._response.stored
        self._conversation = request.conversation
        self._hold = hold
        self._recent, self._history = asking.recent, context.history
        self._earlier_stored = context.stored
        self._generate = asking.generate
        self._begun = False
        self._items: list[Json] = []
        self._saved = self._kept or self._conversation is not None or self._recent is not None
        if self._saved:
            self._items = given_items(request.input, context.referenced, around.make_id)
        self._stream = (
            ResponseStream(self._response, self._output, around.now) if request.stream else None
        )
        self._unknown_fields = len(request.model_extra or ())
        self._stores = stores
        self._now = around.now

    async def connect(self) -> None:
        """Connects to the executors that the answer may need. Raises ServingError."""
        if self._executors is not None:
            await self._executors.open()

    def disconnect(self) -> None:
        """Lets the executors of an answer that is not made go."""
        if self._executors is not None:
            self._executors.close()

    def prepared(self) -> Prepared:
        """Returns the answer to a client that waits for it."""
        response, output = self._response, self._output

        def run(accepted: float) -> Events:
            events = self._events(accepted)
            if not self._saved:
                return events
            return keeping(events, output, response, self._save, self._now, self._release)

        presenter = self._stream or ResponseAnswer(response, output, self._now)
        return Prepared(run, presenter, self._unknown_fields)

    async def prepared_in(self, background: Background) -> Prepared:
        """Returns the beginning of an answer that is made in the background, or its stream.

        What is stored first is also what is true should the process end. Raises ServingError when
        it cannot be stored.
        """
        response, output = self._response, self._output
        if not await self._stores.responses.begin(
            self._job.caller.tenant,
            response.begun(),
            self._items,
            lost=response.failed(output, stopped()),
            events=b"" if self._stream else None,
        ):
            raise ServingError(
                ErrorKind.BODY_TOO_LARGE, "The conversation is larger than the store may be."
            )
        self._begun = True
        making = Making(response, output, self._stream)

        def run(accepted: float) -> Events:
            events = self._events(accepted)
            background.start(self._job.caller, events, making, self._save, self._release)
            return making.tape.ticks() if self._stream else no_events()

        presenter = Playback(making.tape, 0) if self._stream else Begun(response, output)
        return Prepared(run, presenter, self._unknown_fields)

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
            self._clock,
            pipeline.drain,
        )
        return rounds.events(accepted)

    async def _save(self, body: Body, events: bytes | None = None) -> bool:
        """Returns whether the response can be had again. One that is an answer is a turn.

        Raises ServingError.
        """
        ended = body["status"] in ("completed", "incomplete")
        stored = False
        try:
            stored = await self._store(body, events, ended)
        finally:
            if ended and self._recent is not None:
                items = [*self._items, *body["output"]]
                names = self._earlier_stored | ({body["id"]} if stored else frozenset())
                self._recent.remember(body["id"], self._history, items, names)
        return stored

    async def _store(self, body: Body, events: bytes | None, ended: bool) -> bool:
        if not self._kept and self._conversation is None:
            return False
        return await self._stores.responses.save(
            self._job.caller.tenant,
            body,
            self._items,
            kept=self._kept,
            conversation=self._conversation if ended else None,
            events=events,
            begun=self._begun,
        )

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()


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
