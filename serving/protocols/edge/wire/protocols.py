"""How uvicorn reads connections for this service."""

from __future__ import annotations

import uvicorn

from serving.protocols.edge.old_clients import ProtocolForOldClients
from serving.protocols.edge.wire.websocket import SocketProtocol


def use_protocols(config: uvicorn.Config) -> None:
    """Sets the protocols of a server that is not loaded yet. Messages are not compressed.

    wsproto inflates whatever has arrived at once: 256 KB on the wire can be 256 MB in memory.
    """
    config.http, config.ws = ProtocolForOldClients, SocketProtocol
    config.ws_per_message_deflate = False
