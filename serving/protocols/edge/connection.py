"""The client's end of a running request: notices at once when it leaves or stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from starlette.types import Message, Receive, Send

from serving.errors import ErrorKind, ServingError


class ClientConnection:
    """Runs a block for as long as the client is there.

    When the client leaves, or takes nothing for `slow_client_seconds`, the block is cancelled and
    ServingError (CLIENT_CLOSED) raised in its place. One task a request listens, none a token. The
    body of the request must have been read.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        clock: Callable[[], float],
        slow_client_seconds: float,
    ) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._slow_client_seconds = slow_client_seconds
        self._sending_since: float | None = None
        self._gone = False
        self._over = False

    async def __aenter__(self) -> ClientConnection:
        """Begins to listen."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is used in a task")
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._listener = self._loop.create_task(self._listen())
        self._timer = self._loop.call_later(self._slow_client_seconds, self._look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends listening. Raises ServingError when the block was cancelled for the client."""
        self._over = True
        self._timer.cancel()
        self._listener.cancel()
        if self._gone and isinstance(raised, asyncio.CancelledError) and not self._task.uncancel():
            raise ServingError(
                ErrorKind.CLIENT_CLOSED, "The client closed the connection."
            ) from None

    async def send(self, message: Message) -> None:
        """Sends, and lets the time that it takes count."""
        self._sending_since = self._clock()
        try:
            await self._send(message)
        finally:
            self._sending_since = None

    async def _listen(self) -> None:
        while not self._over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                return

    def _look(self) -> None:
        """Finds whether a send has lasted too long, or when to look again."""
        now = self._clock()
        since = now if self._sending_since is None else self._sending_since
        delay = since + self._slow_client_seconds - now
        if delay > 0:
            self._timer = self._loop.call_later(delay, self._look)
        else:
            self._leave()

    def _leave(self) -> None:
        if not self._over:
            self._over = True
            self._gone = True
            self._task.cancel()
