"""A client of the Model Context Protocol: one session over streamable HTTP, only what calls need.

Requests are JSON-RPC in a POST each; the answer is JSON, or a stream of server-sent events that
holds it. From the specification of 2025-06-18 (https://modelcontextprotocol.io), which servers of
later versions speak too. What a server sends is bounded and never trusted to have any form.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import httpx2
import msgspec

from serving.tools.event_stream import EventData

PROTOCOL_VERSION = "2025-06-18"
MOST_HEADER_CHARACTERS = 1024

Json = dict[str, Any]


class McpError(Exception):
    """A server that cannot be reached or does not keep to the protocol.

    The message continues a sentence about the server. It holds no address: the model may see it.
    """


class McpRefusedError(McpError):
    """A server that answers a request with an error; the session goes on."""


class ToolResult(NamedTuple):
    """What a tool said: the text of its parts, and whether it reports an error of its own."""

    text: str
    is_error: bool


class McpSession:
    """One session with one server. Requests are made one after another."""

    def __init__(
        self, client: httpx2.AsyncClient, url: str, headers: Mapping[str, str], answer_bytes: int
    ) -> None:
        """`client` is shared and stays open. An answer may have `answer_bytes` at most."""
        self._client = client
        self._url = url
        self._headers = {
            **headers,
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
        }
        self._answer_bytes = answer_bytes
        self._requests = 0
        self._running: int | None = None

    async def open(self) -> None:
        """Shakes hands. Raises McpError."""
        result = await self._request(
            "initialize",
            {
                "protocolVersion": PROTOCOL_VERSION,
                "capabilities": {},
                "clientInfo": {"name": "gpt-oss-120b-service", "version": "1"},
            },
        )
        version = result.get("protocolVersion")
        if not isinstance(version, str):
            raise _stranger()
        self._headers["mcp-protocol-version"] = _sendable(version)
        await self._notify("notifications/initialized", {})

    async def call(self, tool: str, arguments: Json) -> ToolResult:
        """Returns what `tool` says. Raises McpError."""
        result = await self._request("tools/call", {"name": tool, "arguments": arguments})
        parts = result.get("content")
        if not isinstance(parts, list):
            raise _stranger()
        return ToolResult("\n".join(map(_text_of, parts)), result.get("isError") is True)

    async def end(self) -> None:
        """Tells the server to stop what runs and to forget the session; it may fail to hear it."""
        try:
            if self._running is not None:
                await self._notify("notifications/cancelled", {"requestId": self._running})
            if "mcp-session-id" in self._headers:
                await self._client.delete(self._url, headers=self._headers)
        except (McpError, httpx2.HTTPError):
            return

    async def _request(self, method: str, params: Json) -> Json:
        """Returns the result of one request. Raises McpError."""
        self._requests += 1
        self._running = self._requests
        message = {"jsonrpc": "2.0", "id": self._running, "method": method, "params": params}
        async with self._posted(message) as response:
            if name := response.headers.get("mcp-session-id"):
                self._headers["mcp-session-id"] = _sendable(name)
            answer = await self._answer(response)
        self._running = None
        if isinstance(error := answer.get("error"), dict):
            raise McpRefusedError(f"refused the call: {error.get('message')}")
        result = answer.get("result")
        if not isinstance(result, dict):
            raise _stranger()
        return result

    async def _notify(self, method: str, params: Json) -> None:
        async with self._posted({"jsonrpc": "2.0", "method": method, "params": params}):
            return

    @asynccontextmanager
    async def _posted(self, message: Json) -> AsyncGenerator[httpx2.Response]:
        """Sends a message, and yields the response whose body has not been read."""
        content = msgspec.json.encode(message)
        try:
            async with self._client.stream(
                "POST", self._url, content=content, headers=self._headers
            ) as response:
                if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                    raise McpError(f"answered with status {response.status_code}")
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise McpError("cannot be reached") from error

    async def _answer(self, response: httpx2.Response) -> Json:
        """Returns the answer to the request that runs; other messages of a stream are left out."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "text/event-stream"):
            raise _stranger()
        events = EventData() if kind == "text/event-stream" else None
        whole = b""
        taken_bytes = 0
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                taken_bytes += len(piece)
                if taken_bytes > self._answer_bytes:
                    raise McpError(f"answered with more than {self._answer_bytes} bytes")
                if events is None:
                    whole += piece
                    continue
                for data in events.feed(piece):
                    message = _message(data)
                    if self._answers(message):
                        return message
        if events is not None:
            raise McpError("broke off its answer")
        message = _message(whole)
        if not self._answers(message):
            raise _stranger()
        return message

    def _answers(self, message: Json) -> bool:
        return "method" not in message and message.get("id") == self._running


def _sendable(value: str) -> str:
    """Returns what a server wants to be sent in a header. Raises McpError for what cannot be."""
    if not (value.isascii() and value.isprintable() and len(value) <= MOST_HEADER_CHARACTERS):
        raise _stranger()
    return value


def _stranger() -> McpError:
    return McpError("gave an answer that is not one of the protocol")


def _message(data: bytes) -> Json:
    try:
        message = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise _stranger()
    return message


def _text_of(part: object) -> str:
    """Returns the text of a content part; the model reads nothing else."""
    if not isinstance(part, dict):
        return "[something that is not text]"
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type')}, which is not text]"
