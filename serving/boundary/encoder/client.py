"""The encoder as the API sees it: a process that the first request starts and later ones find.

After it has died the next request starts another, but not before `RETRY_AFTER_SECONDS` are over.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable

from serving.boundary.child import ENVIRONMENT, Child
from serving.boundary.encoder.connection import (
    RETRY_AFTER_SECONDS,
    EncoderConnection,
    TooLongError,
    Vectors,
    lost_error,
)
from serving.boundary.encoder.description import EncoderDescription
from serving.boundary.encoder.messages import Input
from serving.errors import ErrorKind, ServingError

MODULE = "serving.engines.encoder.process"
LOAD_SECONDS = 120.0


class Encoder:
    """Makes vectors of texts. `on_failure` is told why a process has ended or does not start, and
    with which exit code: negative, the signal that ended it."""

    def __init__(
        self,
        description: EncoderDescription,
        *,
        threads: int,
        batch_tokens: int,
        request_tokens: int,
        max_waiting: int,
        clock: Callable[[], float],
        on_failure: Callable[[str], None],
    ) -> None:
        self.description = description
        self._options = [
            *("--engine", str(description.directory)),
            *("--threads", str(threads), "--batch-tokens", str(batch_tokens)),
            *("--request-tokens", str(request_tokens)),
        ]
        self._request_tokens = request_tokens
        self._max_waiting = max_waiting
        self._clock = clock
        self._on_failure = on_failure
        self._arriving = 0
        self._child: Child[EncoderConnection] | None = None
        self._starting: asyncio.Task[EncoderConnection] | None = None
        self._following: asyncio.Task[None] | None = None
        self._not_before = -math.inf
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process, or None while there is none."""
        return None if self._child is None else self._child.pid

    async def encode(
        self,
        inputs: list[Input],
        *,
        dimensions: int,
        truncate_tokens: int | None = None,
    ) -> Vectors:
        """Returns a vector of `dimensions` for each text, or list of token ids.

        Raises ServingError: CONTEXT_LENGTH, OVERLOADED, ENGINE_UNAVAILABLE. A cancelled call
        leaves no work behind.
        """
        if self._arriving + self._queued >= self._max_waiting:
            raise ServingError(
                ErrorKind.OVERLOADED,
                "Too many requests wait for the encoder. Try again.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._arriving += 1
        try:
            connection = await self._connected()
        finally:
            self._arriving -= 1
        try:
            return await connection.encode(inputs, dimensions, truncate_tokens)
        except TooLongError as error:
            raise self._too_long(error, len(inputs)) from None

    async def close(self) -> None:
        """Ends the process for good. Requests that wait end with an error."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._child is not None:
            await self._child.give_up("the service stops")
        if self._following is not None:
            await asyncio.wait({self._following})

    @property
    def _queued(self) -> int:
        return 0 if self._child is None else self._child.link.queued

    async def _connected(self) -> EncoderConnection:
        if self._child is not None and self._child.link.ready.done() and self._child.link.is_open:
            return self._child.link
        if self._starting is None:
            if self._closed or self._clock() < self._not_before:
                raise lost_error()
            self._starting = asyncio.create_task(self._start(), name="encoder-start")
            self._starting.add_done_callback(_forget_failure)
        starting = self._starting
        # Many wait for the one start, and none takes it along when it leaves.
        await asyncio.wait({starting})
        if starting.cancelled():
            raise lost_error()
        return starting.result()

    async def _start(self) -> EncoderConnection:
        """Returns the connection to a new process that is ready. Raises ServingError."""
        try:
            if self._following is not None:
                await asyncio.wait({self._following})
            child = self._child = self._spawn()
            self._following = asyncio.create_task(self._follow(child), name="encoder-end")
            if not await child.loaded(LOAD_SECONDS):
                child.link.close(f"it was not ready within {LOAD_SECONDS:g} seconds")
                raise lost_error()
            return child.link
        finally:
            self._starting = None

    def _spawn(self) -> Child[EncoderConnection]:
        options, environment = self._options, ENVIRONMENT | os.environ
        try:
            return Child(EncoderConnection(), MODULE, *options, environment=environment)
        except OSError as error:
            self._not_before = self._clock() + RETRY_AFTER_SECONDS
            self._on_failure(f"it cannot be started: {error}")
            raise lost_error() from None

    async def _follow(self, child: Child[EncoderConnection]) -> None:
        """Returns when nothing is left of a process, and why it ended has been told."""
        await child.link.closed
        self._not_before = self._clock() + RETRY_AFTER_SECONDS
        loss = await child.give_up("it closed the connection")
        if not self._closed:
            self._on_failure(loss)

    def _too_long(self, error: TooLongError, inputs: int) -> ServingError:
        if error.place < 0:
            return ServingError(
                ErrorKind.CONTEXT_LENGTH,
                f"The inputs have {error.tokens} tokens together; a request may have "
                f"{self._request_tokens}. Send fewer at a time.",
                param="input",
            )
        param = "input" if inputs == 1 else f"input[{error.place}]"
        return ServingError(
            ErrorKind.CONTEXT_LENGTH,
            f"'{param}' has {error.tokens} tokens; this encoder takes "
            f"{self.description.max_tokens}. Shorten it, or have it cut off there with "
            "'truncate_prompt_tokens': -1.",
            param=param,
        )


def _forget_failure(task: asyncio.Task[EncoderConnection]) -> None:
    """Looks at a failed start for those who have left before it failed."""
    if not task.cancelled():
        task.exception()
