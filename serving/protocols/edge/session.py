"""One WebSocket that carries many requests: those of a lane one by one, lanes side by side."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from starlette.types import Message, Receive, Send

from serving.control.drain import draining
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.generation import Services

_CLOSED_NORMALLY, _CLOSED_FOR_POLICY, _CLOSED_FOR_RESTART = 1000, 1008, 1012


class LaneMessage(Protocol):
    """A message of the client. Those of one `stream_id`, or of none, are a lane."""

    @property
    def size_bytes(self) -> int:
        """Its length as it came."""
        ...

    @property
    def stream_id(self) -> str | None:
        """The name of its lane."""
        ...


Request = TypeVar("Request", bound=LaneMessage)


class Session(ABC, Generic[Request]):
    """One open connection. Whatever its client asked for ends with it."""

    def __init__(self, services: Services, send: Send) -> None:
        self._services = services
        self._send = send
        self._lanes: dict[str | None, deque[Request]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._waiting_bytes = 0
        self._farewell: tuple[ServingError, int] | None = None
        self._over = asyncio.Event()

    @abstractmethod
    def read(self, message: Message) -> Request:
        """Returns what a message asks for, or what is wrong with it."""

    @abstractmethod
    async def answer(self, asked: Request) -> None:
        """Answers one message. Raises OSError when the client cannot be told."""

    @abstractmethod
    def describe(self, error: ServingError) -> bytes:
        """Returns the message that tells of an error."""

    async def run(self, receive: Receive) -> None:
        """Serves until the client leaves or is too slow, the connection is too old, or the service
        leaves."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(
            self._services.settings.deadlines.socket_seconds,
            lambda: self._retire(self._too_old(), _CLOSED_NORMALLY),
        )
        self._spawn(self._leave_with_service())
        listening = loop.create_task(self._listen(receive))
        over = loop.create_task(self._over.wait())
        try:
            done, _ = await asyncio.wait({listening, over}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            expiry.cancel()
            self._over.set()
            tasks = {listening, over, *self._tasks}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def require_open(self) -> None:
        """Raises ServingError when no request may begin any more."""
        if self._farewell is not None:
            raise self._farewell[0]

    async def tell(self, data: bytes) -> None:
        """Sends a text. Raises OSError for a client that is gone or takes nothing."""
        await self._try_to_send({"type": "websocket.send", "text": data.decode()})

    async def _listen(self, receive: Receive) -> None:
        """Takes messages until the client leaves."""
        while (message := await receive())["type"] != "websocket.disconnect":
            limits = self._services.settings.limits
            if self._requests >= limits.socket_requests or self._waiting_bytes > limits.body_bytes:
                # Not to read on would keep us from seeing the client leave.
                await self._close(_CLOSED_FOR_POLICY, "too much waits on this connection")
                return
            self._take(self.read(message))

    def _take(self, asked: Request) -> None:
        """Puts a message into its lane."""
        stream_id = asked.stream_id
        self._waiting_bytes += asked.size_bytes
        self._requests += 1
        if stream_id in self._lanes:
            self._lanes[stream_id].append(asked)
            return
        self._lanes[stream_id] = deque([asked])
        self._spawn(self._work(stream_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, stream_id: str | None) -> None:
        """Answers the messages of one lane, one after the other."""
        lane = self._lanes[stream_id]
        try:
            while lane:
                asked = lane.popleft()
                await self.answer(asked)
                self._requests -= 1
                self._waiting_bytes -= asked.size_bytes
        except OSError:
            return  # nobody is there any more
        finally:
            del self._lanes[stream_id]
        if self._farewell is not None and not self._lanes:
            await self._part(*self._farewell)

    async def _try_to_send(self, message: Message) -> None:
        if self._over.is_set():
            raise ConnectionError("the connection is over")
        try:
            async with asyncio.timeout(self._services.settings.deadlines.slow_client_seconds):
                await self._send(message)
        except OSError:
            self._over.set()
            raise

    async def _leave_with_service(self) -> None:
        await self._services.drain.refusing.wait()
        self._retire(draining(), _CLOSED_FOR_RESTART)

    def _retire(self, reason: ServingError, code: int) -> None:
        """Lets what runs come to its end, and nothing begin behind it."""
        if self._farewell is None:
            self._farewell = reason, code
            if not self._lanes:
                self._spawn(self._part(reason, code))

    async def _part(self, reason: ServingError, code: int) -> None:
        with suppress(OSError):
            await self.tell(self.describe(reason))
            await self._close(code, "")

    async def _close(self, code: int, reason: str) -> None:
        with suppress(OSError):
            await self._try_to_send({"type": "websocket.close", "code": code, "reason": reason})
        self._over.set()

    def _too_old(self) -> ServingError:
        seconds = self._services.settings.deadlines.socket_seconds
        return ServingError(
            ErrorKind.WEBSOCKET_LIMIT,
            f"A connection lives {seconds:g} seconds. Open another to go on.",
        )
