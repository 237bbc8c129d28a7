"""HTTP/1.0 on a connection: what uvicorn sends to such a client is HTTP/1.1 but for this."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.protocols.edge.wire.http import HttpProtocol


class ProtocolForOldClients(HttpProtocol):
    """The service's protocol; a client of HTTP/1.0 gets neither chunks nor `100 Continue`.

    RFC 9112, 6.1 and RFC 9110, 10.1.1. nginx is such a client unless told otherwise.
    """

    def on_headers_complete(self) -> None:
        """Begins to answer."""
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.scope["http_version"] == "1.0":
            # Before its task runs; uvicorn has no other way to say of which class it shall be.
            self.cycle.__class__ = EndsWithConnection
            self.cycle.waiting_for_100_continue = False


class EndsWithConnection(RequestResponseCycle):
    """A response without a declared length that ends where its connection does."""

    _unbounded = False

    async def send(self, message: Any) -> None:
        """Sends a part of the response."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._unbounded, self.chunked_encoding = True, False
        elif self._unbounded:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
