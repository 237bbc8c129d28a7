"""Responses that are made while nobody waits: begun by one request, read by later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from serving.api.responses.object import Body, ResponseObject
from serving.api.responses.output import Output
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent
from serving.pipeline import Events

Save = Callable[[Body], Awaitable[bool]]


@dataclass(slots=True)
class _Running:
    response: ResponseObject
    output: Output
    cancelled: bool = False
    task: asyncio.Task[None] = field(init=False)


class Background:
    """The responses that run in the background. Their end is saved, whatever it is.

    Not more can run and wait than admission lets in. `now` is the time of day in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._running: dict[str, _Running] = {}

    def start(
        self,
        events: Events,
        response: ResponseObject,
        output: Output,
        save: Save,
        release: Callable[[], None],
    ) -> None:
        """Begins to collect `events` into `output`. Calls `release` when all is over."""
        running = _Running(response, output)
        running.task = asyncio.create_task(self._run(running, events, save), name=response.id)

        def over(_: asyncio.Task[None]) -> None:
            self._running.pop(response.id)
            release()

        running.task.add_done_callback(over)
        self._running[response.id] = running

    def body(self, response_id: str) -> Body | None:
        """Returns a response as it is now, or None when it does not run."""
        running = self._running.get(response_id)
        return None if running is None else running.response.running(running.output)

    async def cancel(self, response_id: str) -> bool:
        """Returns whether the response was running; it has come to its end and is saved."""
        running = self._running.get(response_id)
        if running is None:
            return False
        running.cancelled = True
        running.task.cancel()
        await asyncio.wait({running.task})
        return True

    async def stop(self) -> None:
        """Ends what runs. What has no end of its own by now is saved as failed."""
        tasks = {running.task for running in self._running.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, running: _Running, events: Events, save: Save) -> None:
        response, output = running.response, running.output
        try:
            body = await self._end(running, events)
        except Exception:
            error = ServingError(ErrorKind.INTERNAL, "The server failed to go on.")
            await save(response.failed(output, error))
            raise
        await save(body)

    async def _end(self, running: _Running, events: Events) -> Body:
        """Returns the response as it is in the end."""
        response, output = running.response, running.output
        try:
            async for batch in events:
                output.add(batch)
        except ServingError as error:
            return response.failed(output, error)
        except asyncio.CancelledError:
            return (
                response.cancelled(output) if running.cancelled else interrupted(response, output)
            )
        finally:
            await events.aclose()
        return response.ended(output, self._now())


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


def interrupted(response: ResponseObject, output: Output) -> Body:
    """Returns a response that its server did not bring to an end."""
    return response.failed(
        output,
        ServingError(
            ErrorKind.ENGINE_UNAVAILABLE, "The service stopped before the response was made."
        ),
    )
