"""The executors of built-in tools: who runs what the model asks for, and what the model is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple

import httpx2
import msgspec

from serving.errors import ErrorKind, ServingError
from serving.harmony.conversation import BuiltInName, BuiltInTool
from serving.settings import Tools, ToolServer
from serving.tools.mcp import McpError, McpRefusedError, McpSession

END_SECONDS: Final = 5.0
"""How long an executor has to hear that a session is over. Nobody waits for it."""

RETRY_AFTER_SECONDS: Final = 5.0

OnCall = Callable[[str, str, float], None]
"""Told of each call: tool, outcome, seconds."""


class Outcome(NamedTuple):
    """What came of a call: what the model is told, and whether the executor did it."""

    output: str
    outcome: Literal["completed", "failed"]


class Toolbox:
    """The executors that the settings name. Each response has sessions of its own with them.

    What a session began does not outlive it: the executor is told when the response is over, and
    when its client has left in the midst of a call.
    """

    def __init__(self, settings: Tools, clock: Callable[[], float], on_call: OnCall) -> None:
        self.settings = settings
        self.clock = clock
        self.on_call = on_call
        self.servers: Mapping[BuiltInName, ToolServer] = _servers(settings)
        self._client: httpx2.AsyncClient | None = None
        self._live: set[Executors] = set()
        self._sessions: set[McpSession] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def require(self, name: BuiltInName, param: str) -> BuiltInTool:
        """Returns a tool as the model is offered it. Raises ServingError where it has no executor,
        naming the request's field `param` and the setting."""
        server = self.servers.get(name)
        if server is None:
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'{param}' needs the built-in tool '{name}', which is off here: the setting "
                f"'tools.{name}' names no executor.",
                param=param,
            )
        return BuiltInTool(name=name, description=server.description)

    def executors(self, names: Iterable[BuiltInName]) -> Executors:
        """Returns executors for one response, none of them connected yet."""
        return Executors(self, names)

    def enter(self, executors: Executors) -> None:
        """Counts the executors of a response that begins. Raises ServingError (OVERLOADED) when
        there are as many as there may be: a response that waits for a tool holds no ticket."""
        if len(self._live) >= self.settings.max_responses:
            raise ServingError(
                ErrorKind.OVERLOADED,
                "The server has as many requests with built-in tools as it can hold. Try again "
                "later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._live.add(executors)

    def leave(self, executors: Executors) -> None:
        """Counts the executors of a response that is over, once."""
        self._live.discard(executors)

    async def connect(self, name: BuiltInName) -> McpSession:
        """Returns a new session. Raises McpError."""
        server = self.servers[name]
        if self._client is None:
            # No proxies, cookies or credentials of the environment, no redirects: the settings
            # alone say who is spoken to.
            self._client = httpx2.AsyncClient(
                timeout=None,  # every use has a time limit of its own
                trust_env=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16),
            )
        headers = {}
        if server.token is not None:
            headers["authorization"] = f"Bearer {server.token.get_secret_value()}"
        # Text in JSON can be six bytes a character (\\u0000); what is left out later may be read.
        answer_bytes = 8 * self.settings.output_bytes + 64 * 1024
        session = McpSession(self._client, server.url, headers, answer_bytes)
        self._sessions.add(session)
        try:
            async with asyncio.timeout(self.settings.connect_seconds):
                await session.open()
        except TimeoutError:
            self.end(session)
            seconds = self.settings.connect_seconds
            raise McpError(f"did not answer within {seconds:g} seconds") from None
        except BaseException:
            self.end(session)
            raise
        return session

    def end(self, session: McpSession) -> None:
        """Begins to end a session; returns at once."""
        self._sessions.discard(session)
        task = asyncio.get_running_loop().create_task(_end(session), name="tool-session-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Ends every session."""
        for session in list(self._sessions):
            self.end(session)
        if self._ending:
            await asyncio.wait(self._ending)
        if self._client is not None:
            await self._client.aclose()


class Executors:
    """The executors of one response. Calls are made one after another."""

    def __init__(self, toolbox: Toolbox, names: Iterable[BuiltInName]) -> None:
        self._toolbox = toolbox
        self._names = tuple(names)
        self._sessions: dict[BuiltInName, McpSession] = {}

    async def open(self) -> None:
        """Connects to all of them. Raises ServingError: TOOL_UNAVAILABLE naming one that is not
        there, or OVERLOADED."""
        self._toolbox.enter(self)
        try:
            async with asyncio.TaskGroup() as group:
                for name in self._names:
                    group.create_task(self._open(name))
        except ExceptionGroup as group_error:
            self.close()
            raise group_error.exceptions[0] from None
        except BaseException:
            self.close()
            raise

    async def call(self, recipient: str, text: str, most_seconds: float) -> Outcome:
        """Returns what came of a call. Whatever goes wrong is told to the model, not raised.

        The call has `most_seconds`, or what the settings give it, where that is less.
        """
        name: BuiltInName = "python" if recipient == "python" else "browser"
        toolbox = self._toolbox
        started = toolbox.clock()
        seconds = min(most_seconds, toolbox.settings.call_seconds)
        outcome = await self._made(name, recipient, text, seconds)
        toolbox.on_call(name, outcome.outcome, toolbox.clock() - started)
        return Outcome(cut(outcome.output, toolbox.settings.output_bytes), outcome.outcome)

    def close(self) -> None:
        """Ends the sessions; returns at once."""
        self._toolbox.leave(self)
        while self._sessions:
            self._toolbox.end(self._sessions.popitem()[1])

    async def _open(self, name: BuiltInName) -> None:
        try:
            self._sessions[name] = await self._toolbox.connect(name)
        except McpError as error:
            # What a server writes into a refusal is not for the public.
            reason = "refuses the session" if isinstance(error, McpRefusedError) else str(error)
            raise ServingError(
                ErrorKind.TOOL_UNAVAILABLE,
                f"The executor of the built-in tool '{name}' {reason}.",
                param="tools",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None

    async def _made(
        self, name: BuiltInName, recipient: str, text: str, most_seconds: float
    ) -> Outcome:
        """Returns what came of a call, however long it is."""
        arguments = {"code": text} if name == "python" else _arguments(text)
        if arguments is None:
            return Outcome("Error: the call's body is not a JSON object.", "failed")
        lost = ""
        try:
            if name not in self._sessions:
                self._sessions[name] = await self._toolbox.connect(name)
            async with asyncio.timeout(most_seconds):
                result = await self._sessions[name].call(recipient.rpartition(".")[2], arguments)
            return Outcome(result.text, "failed" if result.is_error else "completed")
        except McpRefusedError as error:
            return Outcome(f"Error: the tool {error}", "failed")
        except McpError as error:
            lost = str(error)
        except TimeoutError:
            lost = f"did not answer within {most_seconds:.3g} seconds"
        if session := self._sessions.pop(name, None):
            self._toolbox.end(session)
        return Outcome(f"Error: the tool {lost}. What it kept is lost.", "failed")


def cut(text: str, most_bytes: int) -> str:
    """Returns `text`, or its beginning and what was left out where it is too long."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most_bytes:
        return text
    kept = data[:most_bytes].decode("utf-8", "ignore")
    return f"{kept}\n[{len(data) - most_bytes} bytes more were left out.]"


def _servers(settings: Tools) -> dict[BuiltInName, ToolServer]:
    servers: dict[BuiltInName, ToolServer] = {}
    if settings.python is not None:
        servers["python"] = settings.python
    if settings.browser is not None:
        servers["browser"] = settings.browser
    return servers


def _arguments(text: str) -> dict[str, Any] | None:
    """Returns the JSON object that a call holds; nothing is as good as an empty one."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


async def _end(session: McpSession) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await session.end()
