"""Responses that are made while nobody waits: begun by one request, read by later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from serving.control.callers import Caller
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent
from serving.generation.pipeline import Events
from serving.protocols.edge.presenters import Whole
from serving.protocols.responses.object import Body, ResponseObject
from serving.protocols.responses.output import Output
from serving.protocols.responses.stream import ResponseStream
from serving.protocols.responses.tape import Tape
from serving.store.responses import unfinished

SAVE_SECONDS = 5.0
"""From one try to save an end to the next, where the store cannot be used."""
WATCH_SECONDS = 1.0
"""How often it is looked whether another process has deleted or cancelled what runs here."""

Wanted = Callable[[Collection[str]], Awaitable[set[str]]]
"""Returns those of the responses in the making that nobody has called off. Raises ServingError."""


class Save(Protocol):
    """Keeps a response as it is, and what its stream was, where it has one."""

    async def __call__(self, body: Body, events: bytes | None = None) -> bool:
        """Returns whether the response can be had again. Raises ServingError."""
        ...


class Making:
    """One response in the making. With a `stream`, its events are on a tape."""

    def __init__(
        self, response: ResponseObject, output: Output, stream: ResponseStream | None
    ) -> None:
        self.response = response
        self.output = output
        self.cancelled = False
        self.ending = False
        self.ended = asyncio.Event()
        """Set when the end can be read: it is saved, or could not be at the first try."""
        self.final: Body | None = None
        self.tape = Tape()
        self.streamed = stream is not None
        self._stream = stream
        self._begun = False
        if stream is not None:
            self.tape.add(stream.queue())

    @property
    def body(self) -> Body:
        """The response as it is now."""
        return self.response.running(self.output) if self.final is None else self.final

    def take(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events of the engine."""
        if self._stream is None:
            self.output.add(events)
            return
        start = b"" if self._begun else self._stream.begin()
        self._begun = True
        self.tape.add(start + self._stream.encode(events))

    async def end(self, failure: Exception | None, now: float, save: Save) -> None:
        """Saves the response as it is in the end, and then tells those who wait for it.

        Where it cannot be saved they are told, too, and it is tried again.
        """
        body, last = self._ending(failure, now)
        events = None if self._stream is None else self.tape.since(0)[0] + last
        saved = False
        while not saved:
            try:
                await save(body, events)
                saved = True
            except ServingError:
                pass
            if self.final is None:
                self.final = body
                self.tape.add(last)
                self.tape.end()
                self.ended.set()
            if not saved:
                await asyncio.sleep(SAVE_SECONDS)

    def _ending(self, failure: Exception | None, now: float) -> tuple[Body, bytes]:
        response, output, stream = self.response, self.output, self._stream
        if self.cancelled:
            return response.cancelled(output), stream.cancel() if stream else b""
        if failure is not None:
            error = public_error(failure)
            return response.failed(output, error), stream.fail(error) if stream else b""
        return response.ended(output, now), stream.end() if stream else b""


class Background:
    """The responses that run in the background. Their end is saved, whatever it is.

    Not more can run and wait than admission lets in. `now` is the time of day in seconds. `wanted`
    tells which of them other processes have not deleted or cancelled. `on_bug` is told of a failure
    that nobody foresaw, with the id of the response that it ended.
    """

    def __init__(
        self,
        now: Callable[[], float],
        wanted: Wanted,
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self._now = now
        self._wanted = wanted
        self._on_bug = on_bug
        self._running: dict[tuple[Caller, str], tuple[Making, asyncio.Task[None]]] = {}
        self._watching: asyncio.Task[None] | None = None

    def start(
        self,
        caller: Caller,
        events: Events,
        making: Making,
        save: Save,
        release: Callable[[], None],
    ) -> None:
        """Begins to make a response of `events`. Calls `release` when all is over."""
        name = making.response.id
        task = asyncio.create_task(self._run(making, events, save), name=name)

        def over(task: asyncio.Task[None]) -> None:
            self._running.pop((caller, name))
            making.tape.end()
            making.ended.set()
            release()
            if not task.cancelled() and (bug := task.exception()) is not None:
                self._on_bug(name, bug)

        task.add_done_callback(over)
        self._running[caller, name] = making, task
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="background-watch")

    def body(self, caller: Caller, response_id: str) -> Body | None:
        """Returns a response as it is now, or None when it is not in the making here."""
        running = self._running.get((caller, response_id))
        return None if running is None else running[0].body

    def require_saved(self, caller: Caller, response_id: str) -> None:
        """Raises ServingError for a response that cannot be continued, because it runs or its end
        is not saved."""
        running = self._running.get((caller, response_id))
        if running is None:
            return
        if running[0].final is None:
            raise unfinished()
        raise ServingError(
            ErrorKind.STORE_UNAVAILABLE,
            "The end of that response is not stored yet.",
            param="previous_response_id",
            retry_after_seconds=SAVE_SECONDS,
        )

    def tape(self, caller: Caller, response_id: str) -> Tape | None:
        """Returns the events of a response that runs and was begun as a stream, or None."""
        running = self._running.get((caller, response_id))
        return running[0].tape if running is not None and running[0].streamed else None

    async def cancel(self, caller: Caller, response_id: str) -> Body | None:
        """Returns a response that was running, at its end; None when it was not."""
        if (caller, response_id) not in self._running:
            return None
        making, task = self._running[caller, response_id]
        self._call_off(making, task)
        await making.ended.wait()
        return making.body

    def forget(self, caller: Caller, response_id: str) -> None:
        """Lets go of a response that has ended, and has been deleted before it was saved."""
        running = self._running.get((caller, response_id))
        if running is not None and running[0].ended.is_set():
            running[1].cancel()

    async def stop(self) -> None:
        """Ends what runs. What has no end of its own by now is saved as failed."""
        if self._watching is not None:
            self._watching.cancel()
        for making, task in self._running.values():
            if making.ended.is_set() or not making.ending:
                task.cancel()
        if self._running:
            await asyncio.wait({task for _, task in self._running.values()})

    def _call_off(self, making: Making, task: asyncio.Task[None]) -> None:
        if not making.ending:
            making.cancelled = True
            task.cancel()

    async def _watch(self) -> None:
        """Ends what other processes have deleted or cancelled, as long as anything runs."""
        while self._running:
            await asyncio.sleep(WATCH_SECONDS)
            before = dict(self._running)
            try:
                wanted = await self._wanted([name for _, name in before])
            except ServingError:
                continue
            for (_, name), (making, task) in before.items():
                if name not in wanted and not making.ending:
                    self._call_off(making, task)

    async def _run(self, making: Making, events: Events, save: Save) -> None:
        failure: Exception | None = None
        try:
            async for batch in events:
                making.take(batch)
        except asyncio.CancelledError:
            failure = stopped()
        except Exception as error:
            failure = error
        finally:
            making.ending = True  # what comes now is short, and is not to be broken off
            await events.aclose()
        await making.end(failure, self._now(), save)
        if failure is not None and not isinstance(failure, ServingError):
            raise failure


class Begun(Whole):
    """Presents a response in the background at its beginning."""

    def __init__(self, response: ResponseObject, output: Output) -> None:
        self._response = response
        self._output = output

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events; none come here."""
        self._output.add(events)

    def body(self) -> Body:
        """Returns the object as it is now."""
        return self._response.running(self._output)


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
