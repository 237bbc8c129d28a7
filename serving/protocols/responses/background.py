"""Responses in the background: one request starts one, later requests read it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent
from serving.generation.pipeline import Events
from serving.protocols.edge.event_log import EventLog
from serving.protocols.responses.object import Body, ResponseObject
from serving.protocols.responses.stream import ResponseStream
from serving.store.responses import unfinished

SAVE_SECONDS = 5.0
"""Between two tries to save a finished response, while the store cannot be used."""
WATCH_SECONDS = 1.0
"""How often to look whether another process has deleted or cancelled what runs here."""

Uncancelled = Callable[[Collection[str]], Awaitable[set[str]]]
"""Returns those of some running responses that nobody has deleted or cancelled. Raises
ServingError."""

Save = Callable[[Body, bytes | None], Awaitable[bool]]
"""Saves a response as it is, and what its stream was, where it has one. Returns whether the
response can be had again. Raises ServingError."""


class BackgroundResponse:
    """One response that runs in the background. With a `stream`, its events are in `log`."""

    def __init__(self, response: ResponseObject, stream: ResponseStream | None, save: Save) -> None:
        self.id = response.id
        self.log = EventLog()
        self.streamed = stream is not None
        self.cancelled = False
        self.ending = False
        self.ended = asyncio.Event()
        """Set when the end can be read: it is saved, or could not be at the first try."""
        self.final: Body | None = None
        self._response = response
        self._stream = stream
        self._save = save
        self._begun = False
        if stream is not None:
            self.log.add(stream.queue())

    @property
    def body(self) -> Body:
        """The response as it is now."""
        return self._response.running() if self.final is None else self.final

    def take(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events of the engine."""
        if self._stream is None:
            self._response.output.add(events)
            return
        start = b"" if self._begun else self._stream.begin()
        self._begun = True
        self.log.add(start + self._stream.encode(events))

    async def end(self, failure: Exception | None) -> None:
        """Saves the response as it is in the end, and then tells those who wait for it.

        Where it cannot be saved they are told, too, and it is tried again.
        """
        body, last = self._ending(failure)
        events = None if self._stream is None else self.log.since(0)[0] + last
        saved = False
        while not saved:
            try:
                await self._save(body, events)
                saved = True
            except ServingError:
                pass
            if self.final is None:
                self.final = body
                self.log.add(last)
                self.log.end()
                self.ended.set()
            if not saved:
                await asyncio.sleep(SAVE_SECONDS)

    def _ending(self, failure: Exception | None) -> tuple[Body, bytes]:
        response, stream = self._response, self._stream
        if self.cancelled:
            return response.cancelled(), stream.cancel() if stream else b""
        if failure is not None:
            error = public_error(failure)
            return response.failed(error), stream.fail(error) if stream else b""
        return response.ended(), stream.end() if stream else b""


class Background:
    """The responses that run in the background. Their end is saved, whatever it is.

    Not more can run and wait than admission lets in. `uncancelled` tells which of them other
    processes have not deleted or cancelled. `on_bug` is told of a failure that nobody foresaw, with
    the id of the response that it ended.
    """

    def __init__(
        self, uncancelled: Uncancelled, on_bug: Callable[[str, BaseException], None]
    ) -> None:
        self._uncancelled = uncancelled
        self._on_bug = on_bug
        self._running: dict[tuple[Caller, str], tuple[BackgroundResponse, asyncio.Task[None]]] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(
        self,
        caller: Caller,
        events: Events,
        response: BackgroundResponse,
        release: Callable[[], None],
    ) -> None:
        """Begins to make a response of `events`. Calls `release` when all is over."""
        key = caller, response.id
        task = asyncio.create_task(_run(response, events), name=response.id)

        def over(task: asyncio.Task[None]) -> None:
            self._running.pop(key)
            response.log.end()
            response.ended.set()
            release()
            if not task.cancelled() and (bug := task.exception()) is not None:
                self._on_bug(response.id, bug)

        task.add_done_callback(over)
        self._running[key] = response, task
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="background-watch")

    def find(self, caller: Caller, response_id: str) -> BackgroundResponse | None:
        """Returns a response that runs here, or whose end is not saved yet."""
        running = self._running.get((caller, response_id))
        return None if running is None else running[0]

    def require_saved(self, caller: Caller, response_id: str) -> None:
        """Raises ServingError for a response that cannot be continued, because it runs or its end
        is not saved."""
        running = self.find(caller, response_id)
        if running is None:
            return
        if running.final is None:
            raise unfinished()
        raise ServingError(
            ErrorKind.STORE_UNAVAILABLE,
            "The end of that response is not stored yet.",
            param="previous_response_id",
            retry_after_seconds=SAVE_SECONDS,
        )

    async def cancel(self, caller: Caller, response_id: str) -> Body | None:
        """Returns a response that was running, at its end; None when it was not."""
        if (caller, response_id) not in self._running:
            return None
        response, task = self._running[caller, response_id]
        _cancel(response, task)
        await response.ended.wait()
        return response.body

    def forget(self, caller: Caller, response_id: str) -> None:
        """Lets go of a response that has ended, and has been deleted before it was saved."""
        running = self._running.get((caller, response_id))
        if running is not None and running[0].ended.is_set():
            running[1].cancel()

    async def stop(self) -> None:
        """Ends what runs. What has no end of its own by now is saved as failed."""
        if self._watching is not None:
            self._watching.cancel()
        for response, task in self._running.values():
            if response.ended.is_set() or not response.ending:
                task.cancel()
        if self._running:
            await asyncio.wait({task for _, task in self._running.values()})

    async def _watch(self) -> None:
        """Ends what other processes have deleted or cancelled, as long as anything runs."""
        while self._running:
            await asyncio.sleep(WATCH_SECONDS)
            before = [*self._running.values()]
            try:
                uncancelled = await self._uncancelled([response.id for response, _ in before])
            except ServingError:
                continue
            for response, task in before:
                if response.id not in uncancelled:
                    _cancel(response, task)


def _cancel(response: BackgroundResponse, task: asyncio.Task[None]) -> None:
    if not response.ending:
        response.cancelled = True
        task.cancel()


async def _run(response: BackgroundResponse, events: Events) -> None:
    failure: Exception | None = None
    try:
        async for batch in events:
            response.take(batch)
    except asyncio.CancelledError:
        failure = stopped()
    except Exception as error:
        failure = error
    finally:
        response.ending = True  # what comes now is short, and is not to be broken off
        await events.aclose()
    await response.end(failure)
    if failure is not None and not isinstance(failure, ServingError):
        raise failure


async def no_events() -> Events:
    """Yields nothing."""
    nothing: list[list[ChoiceEvent]] = []
    for batch in nothing:
        yield batch


def stopped() -> ServingError:
    """Returns the failure of a response that its server did not bring to an end."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE, "The service stopped before the response was made."
    )


def public_error(error: Exception) -> ServingError:
    """Returns what a client is told of a failure: of an unforeseen one, nothing of its own."""
    if isinstance(error, ServingError):
        return error
    return ServingError(ErrorKind.INTERNAL, "The server failed to go on.")
