"""Where a request came from and what it was sent to, before anything else looks at it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serving.errors import ErrorKind, ServingError

UNIX = "unix"
"""The address of who connects through a Unix socket."""

_MAPPED = "::ffff:"
# RFC 3986's host and a port; empty where the target has no authority.
_HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")


class Addressing:
    """ASGI middleware: the client and the scheme that a trusted proxy names, no path prefix.

    Whoever is not among `trusted` (addresses, networks, `unix`) names nobody but himself. A path is
    taken with `prefix` and without it, since some proxies strip it.
    """

    def __init__(self, app: ASGIApp, *, trusted: Iterable[str], prefix: str) -> None:
        self._app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] != "lifespan":
            host, port = scope.get("client") or (UNIX, 0)
            # What listens on :: sees a peer with IPv4 so, and networks are written the usual way.
            scope["client"] = (host.removeprefix(_MAPPED), port)
            inner = scope["path"].removeprefix(self._prefix)
            if self._prefix and inner != scope["path"] and inner[:1] in ("", "/"):
                scope["path"] = inner or "/"
                raw: bytes = scope.get("raw_path") or b""
                scope["raw_path"] = raw.removeprefix(self._prefix.encode()) or b"/"
        await self._app(scope, receive, send)  # type: ignore[arg-type]


class OneHost:
    """ASGI middleware. Raises ServingError for a request that names no host, two, or nonsense.

    RFC 9112, 3.2: two servers that read such a request differently can be played off against each
    other. Only HTTP/1.0 may leave it out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] != "lifespan":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            optional = scope.get("http_version") in ("1.0", "2", "3")
            if len(hosts) > 1 or not (hosts or optional):
                raise ServingError(ErrorKind.INVALID_VALUE, "A request has one Host header.")
            if hosts and not _HOST.fullmatch(hosts[0]):
                raise ServingError(ErrorKind.INVALID_VALUE, "The Host header names no host.")
        await self._app(scope, receive, send)
