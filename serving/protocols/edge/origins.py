"""Whose pages may ask. Browsers let any page send requests to any address, this one too."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ErrorKind, ServingError

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PROBES = frozenset({"/livez", "/readyz", "/health"})
_FOREIGN_SITES = frozenset({b"cross-site", b"same-site"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRIVATE_ENDINGS = (".localhost", ".local", ".internal")


class Origins:
    """ASGI middleware, for HTTP and WebSockets. Raises ServingError (PERMISSION_DENIED).

    - What could change something is refused to pages of other origins than the one that the
      request goes to, unless `allowed_origins` has theirs. Clients that are no browsers send no
      `Origin`, and are not concerned.
    - On a loopback address every request but a probe is refused whose `Host` is a name that
      anyone's DNS may have given this address (DNS rebinding), unless `allowed_hosts` has it. A
      proxy that passes its clients' `Host` on is known by `X-Forwarded-For` or `Forwarded`. That is
      no way around for pages: they cannot leave `Origin` out of what could change something.
    """

    def __init__(
        self, app: ASGIApp, *, allowed_origins: Collection[str], allowed_hosts: Collection[str]
    ) -> None:
        self._app = app
        self._allowed_origins = frozenset(origin.lower() for origin in allowed_origins)
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection of any kind."""
        if scope["type"] in ("http", "websocket"):
            self._require_own(scope)
        await self._app(scope, receive, send)

    def _require_own(self, scope: Scope) -> None:
        origin, host, forwarded, site = None, "", False, b""
        for name, value in scope["headers"]:
            if name == b"origin":
                # Browsers send one. Two make none that is known.
                origin = value.decode("latin-1").lower() if origin is None else "null"
            elif name == b"host":
                host = value.decode("latin-1").lower()
            elif name in (b"x-forwarded-for", b"forwarded"):
                forwarded = True
            elif name == b"sec-fetch-site":
                site = value
        if origin in self._allowed_origins:
            return
        safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
        foreign = site in _FOREIGN_SITES if origin is None else not _same(origin, host)
        if foreign and not safe:
            raise ServingError(
                ErrorKind.PERMISSION_DENIED,
                "Pages of this origin may not ask here: 'http.allowed_origins' does not have it.",
                param="origin",
            )
        harmless = (forwarded and origin is None) or (safe and scope["path"] in _PROBES)
        if not harmless and self._is_strange(host) and _is_loopback(scope.get("server")):
            raise ServingError(
                ErrorKind.PERMISSION_DENIED,
                "This service listens on a loopback address, and the request's host is no name of "
                "that: 'http.allowed_hosts' does not have it.",
                param="host",
            )

    def _is_strange(self, host: str) -> bool:
        """Returns whether `host` is a name that anyone's DNS could resolve, and not allowed."""
        name = host.partition(":")[0].rstrip(".")
        return (
            "." in name
            and not name.rpartition(".")[2].isdigit()  # IPv4; IPv6 begins with a bracket
            and not name.endswith(_PRIVATE_ENDINGS)
            and name not in self._allowed_hosts
        )


def _same(origin: str, host: str) -> bool:
    """Returns whether a page of `origin` asks the server that it came from.

    The scheme is not compared: a proxy may have ended TLS.
    """
    name, port = _authority(origin)
    default = _DEFAULT_PORTS.get(origin.partition(":")[0])
    asked_name, asked_port = _authority(f"//{host}")
    return name != "" and (name, port or default) == (asked_name, asked_port or default)


def _authority(url: str) -> tuple[str, int | None]:
    """Returns the host and the port of a URL; an empty host where it has none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _is_loopback(server: tuple[str, int | None] | None) -> bool:
    """Returns whether a connection came in on a loopback address; a Unix socket has none."""
    try:
        address = ip_address(server[0] if server is not None else "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
