"""How uvicorn reads connections for this service."""

from __future__ import annotations

from typing import Any

from serving.api.wire.http import HttpProtocol
from serving.api.wire.websocket import SocketProtocol


def uvicorn_options() -> dict[str, Any]:
    """Returns arguments of `uvicorn.Config`: its protocols, and no compression of messages.

    wsproto inflates whatever has arrived at once: 256 KB on the wire can be 256 MB in memory.
    """
    return {"http": HttpProtocol, "ws": SocketProtocol, "ws_per_message_deflate": False}
