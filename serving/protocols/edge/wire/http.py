"""HTTP/1.1 on one connection: every request gets an answer, whatever it wishes besides."""

from __future__ import annotations

import secrets

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.errors import ErrorKind, ServingError

_ABOUT_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol. What differs:

    - An upgrade to anything but a WebSocket is ignored (RFC 9110, 7.8): the request is answered
      as if it had not asked. httptools takes what follows such a head for another protocol.
    - What is not HTTP is refused in the API's shape, and never in the middle of an answer.
    - A connection ends where its client may have kept back a body (`Expect: 100-continue`): what
      it sends next could be either that body or another request.
    """

    def data_received(self, data: bytes) -> None:
        """Reads what has arrived."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.scope["method"] == "CONNECT":
                    self._refuse(
                        ServingError(ErrorKind.METHOD_NOT_ALLOWED, "This server is no proxy.")
                    )
                    return
                data = self._plain_head() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserInvalidURLError:
                self._refuse(ServingError(ErrorKind.NOT_FOUND, "There is nothing at this address."))
                return
            except httptools.HttpParserError:
                self._refuse(ServingError(ErrorKind.INVALID_VALUE, "This is no HTTP/1.1 request."))
                return

    def on_headers_complete(self) -> None:
        """Begins to answer; a head with an upgrade that is ignored is read again without it."""
        if self._ignores_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends the body."""
        if not self._ignores_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Goes on to the next request, or ends the connection."""
        if self.expect_100_continue and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        """Returns whether this is the handshake of a WebSocket."""
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _ignores_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _plain_head(self) -> bytes:
        """Returns the head that has just been read, without what it says of upgrades."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(t for t in tokens if t.lower() not in _ABOUT_UPGRADES)
            if name not in _ABOUT_UPGRADES:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse(self, error: ServingError) -> None:
        """Answers what no application can; a request before it gets its own answer first."""
        extra = {"client": self.client and self.client[0]}
        self.logger.warning("Invalid HTTP request received.", extra=extra)
        running = self.cycle is not None and not self.cycle.response_complete
        if running and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not (running and self.cycle.response_started):
            self.transport.write(self._refusal(error))
        self.transport.close()

    def _refusal(self, error: ServingError) -> bytes:
        body = msgspec.json.encode(error.body)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", secrets.token_hex(12).encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[error.kind.value.http_status], *lines, b"\r\n", body])
