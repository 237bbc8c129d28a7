"""The encoder as the API sees it: a process that the first request starts and later ones find.

After it has died the next request starts another, but not before `RETRY_AFTER_SECONDS` are over.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from serving.boundary.encoder.connection import (
    RETRY_AFTER_SECONDS,
    EncoderConnection,
    TooLongError,
    Vectors,
    lost_error,
)
from serving.boundary.encoder.description import EncoderDescription
from serving.boundary.encoder.messages import Input
from serving.boundary.process import EngineProcess
from serving.errors import ErrorKind, ServingError

MODULE = "serving.engines.encoder.process"
LOAD_SECONDS = 120.0
_COLLECT_SECONDS = 0.5
_STOP_SECONDS = 10.0


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
            *("--threads", str(threads), "--batch-tokens", str(batch_tokens)),
            *("--request-tokens", str(request_tokens)),
        ]
        self._request_tokens = request_tokens
        self._max_waiting = max_waiting
        self._clock = clock
        self._on_failure = on_failure
        self._arriving = 0
        self._connection: EncoderConnection | None = None
        self._process: EngineProcess | None = None
        self._starting: asyncio.Task[EncoderConnection] | None = None
        self._not_before = -math.inf
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process, or None while there is none."""
        return None if self._process is None else self._process.pid

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
        if self._connection is not None:
            self._connection.close("the service stops")
        if self._process is not None:
            self._process.kill()
            await self._process.wait(_STOP_SECONDS)

    @property
    def _queued(self) -> int:
        return 0 if self._connection is None else self._connection.queued

    async def _connected(self) -> EncoderConnection:
        if self._connection is not None and not self._connection.over:
            return self._connection
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
            if self._process is not None:
                await self._process.wait(_STOP_SECONDS)
            connection = await self._spawn()
            try:
                async with asyncio.timeout(LOAD_SECONDS):
                    await connection.ready.wait()
            except TimeoutError:
                connection.close(f"it was not ready within {LOAD_SECONDS:g} seconds")
            if connection.over:
                raise lost_error()
            self._connection = connection
            return connection
        finally:
            self._starting = None

    async def _spawn(self) -> EncoderConnection:
        try:
            process, end = EngineProcess.spawn(
                self.description.directory, {}, MODULE, self._options
            )
        except OSError as error:
            self._not_before = self._clock() + RETRY_AFTER_SECONDS
            self._on_failure(f"it cannot be started: {error}")
            raise lost_error() from None
        self._process = process
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(
            lambda: EncoderConnection(self._on_end), sock=end
        )
        return connection

    def _on_end(self, connection: EncoderConnection) -> None:
        def tell(exited: asyncio.Future[int]) -> None:
            if not self._closed:
                self._on_failure(f"{connection.why}; exit code {exited.result()}")

        self._not_before = self._clock() + RETRY_AFTER_SECONDS
        if self._process is not None:
            # It may still be saying why it leaves.
            asyncio.get_running_loop().call_later(_COLLECT_SECONDS, self._process.kill)
            self._process.exited.add_done_callback(tell)

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
