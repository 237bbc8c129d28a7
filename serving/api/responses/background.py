"""Responses that are made while nobody waits: begun by one request, read by later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from serving.api.responses.object import Body, ResponseObject
from serving.api.responses.output import Output
from serving.api.responses.stream import ResponseStream
from serving.api.responses.tape import Tape
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent
from serving.pipeline import Events


class Save(Protocol):
    """Keeps a response as it is, and what its stream was, where it has one."""

    async def __call__(self, body: Body, events: bytes | None = None) -> bool:
        """Returns whether the response can be had again."""
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
        self.tape = Tape()
        self.streamed = stream is not None
        self._stream = stream
        self._begun = False
        if stream is not None:
            self.tape.add(stream.queue())

    def take(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events of the engine."""
        if self._stream is None:
            self.output.add(events)
            return
        start = b"" if self._begun else self._stream.begin()
        self._begun = True
        self.tape.add(start + self._stream.encode(events))

    async def end(self, failure: Exception | None, now: float, save: Save) -> None:
        """Saves the response as it is in the end, and then tells the readers of its stream."""
        body, last = self._ending(failure, now)
        if self._stream is None:
            await save(body)
            return
        await save(body, self.tape.since(0)[0] + last)
        self.tape.add(last)
        self.tape.end()

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

    Not more can run and wait than admission lets in. `now` is the time of day in seconds. `on_bug`
    is told of a failure that nobody foresaw, with the id of the response that it ended.
    """

    def __init__(
        self, now: Callable[[], float], on_bug: Callable[[str, BaseException], None]
    ) -> None:
        self._now = now
        self._on_bug = on_bug
        self._running: dict[str, tuple[Making, asyncio.Task[None]]] = {}

    def start(
        self, events: Events, making: Making, save: Save, release: Callable[[], None]
    ) -> None:
        """Begins to make a response of `events`. Calls `release` when all is over."""
        name = making.response.id
        task = asyncio.create_task(self._run(making, events, save), name=name)

        def over(task: asyncio.Task[None]) -> None:
            self._running.pop(name)
            making.tape.end()
            release()
            if not task.cancelled() and (bug := task.exception()) is not None:
                self._on_bug(name, bug)

        task.add_done_callback(over)
        self._running[name] = making, task

    def body(self, response_id: str) -> Body | None:
        """Returns a response as it is now, or None when it does not run."""
        running = self._running.get(response_id)
        return None if running is None else running[0].response.running(running[0].output)

    def tape(self, response_id: str) -> Tape | None:
        """Returns the events of a response that runs and was begun as a stream, or None."""
        running = self._running.get(response_id)
        return running[0].tape if running is not None and running[0].streamed else None

    async def cancel(self, response_id: str) -> bool:
        """Returns whether the response was running; it has come to its end and is saved."""
        if response_id not in self._running:
            return False
        making, task = self._running[response_id]
        if not making.ending:
            making.cancelled = True
            task.cancel()
        await asyncio.wait({task})
        return True

    async def stop(self) -> None:
        """Ends what runs. What has no end of its own by now is saved as failed."""
        for making, task in self._running.values():
            if not making.ending:
                task.cancel()
        if self._running:
            await asyncio.wait({task for _, task in self._running.values()})

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


class Begun:
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
