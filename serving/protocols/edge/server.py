"""uvicorn's server under the service's own settings: the host makes it, with the host's socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import FrameType
from typing import Final

import uvicorn

from serving.control.drain import END_SECONDS, Drain
from serving.protocols.edge.wire.bounded import BoundedProtocol
from serving.protocols.edge.wire.protocols import use_protocols
from serving.protocols.edge.wire.slots import Slots, connections_within, raise_file_limit
from serving.settings import Http

TICKS_A_SECOND: Final = 10
"""Of uvicorn's main loop."""


class Server(uvicorn.Server):
    """Serves HTTP as `settings` say; what the host's command line says of the same is not heard.

    `announce` is run while requests are taken, with the listening socket and whether it speaks TLS.
    It bounds connections by `slots`. A signal begins `drain`; the server leaves when that is done.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Http,
        announce: Callable[[socket.socket, bool], Coroutine[None, None, None]],
        drain: Drain,
        slots: Slots,
        slow_client_seconds: float,
    ) -> None:
        config.timeout_keep_alive = settings.keep_alive_seconds
        config.timeout_graceful_shutdown = int(END_SECONDS)
        use_protocols(config)
        config.proxy_headers = False  # the API's own: uvicorn's takes FORWARDED_ALLOW_IPS as well
        if settings.tls_certificate is not None:
            config.ssl_certfile, config.ssl_keyfile = settings.tls_certificate, settings.tls_key
            config.ssl_keyfile_password = None
        super().__init__(config)
        self._settings = settings
        self._announce = announce
        self._announcing: asyncio.Task[None] | None = None
        self._drain = drain
        self._slots = slots
        self._slow_client_seconds = slow_client_seconds
        self._listeners: list[tuple[asyncio.Server, socket.socket]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to serve on the host's sockets, with as many open files as may be."""
        files = raise_file_limit()
        await super().startup([])  # without uvicorn's listeners, whose TLS handshakes last a minute
        self._slots.most = connections_within(files, self._settings.connections)
        self._slots.count_open = lambda: len(self.server_state.connections)
        config, loop = self.config, asyncio.get_running_loop()
        make_protocol = partial(
            BoundedProtocol,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            slots=self._slots,
            head_seconds=self._settings.head_seconds,
            slow_client_seconds=self._slow_client_seconds,
        )
        tls_seconds = None if config.ssl is None else self._settings.head_seconds
        for listener in sockets or ():
            listener.set_inheritable(False)  # the host's is: no process of ours is to have it too
            server = await loop.create_server(
                make_protocol,
                sock=listener,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=tls_seconds,
                ssl_shutdown_timeout=tls_seconds,
            )
            self.servers.append(server)
            self._listeners.append((server, listener))
        if sockets:
            announcement = self._announce(sockets[0], config.is_ssl)
            self._announcing = asyncio.create_task(announcement)

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to leave now: once a drain that was asked for is done."""
        asked = await super().on_tick(counter)
        if counter % TICKS_A_SECOND == 0:
            self._slots.look_for_files()
        if not asked or self.force_exit:
            return asked
        self._drain.begin(0.0 if signal.SIGINT in self._captured_signals else None)
        if self._drain.refusing.is_set():
            self._close_ports()
        return self._drain.done

    def _close_ports(self) -> None:
        """Stops listening, for the host too, whose copies would take connections for nobody.

        A Unix socket could never listen again, for no next worker either. Requests that come by it
        are refused until the end.
        """
        while self._listeners:
            server, listener = self._listeners.pop()
            if listener.family != socket.AF_UNIX:
                with listener.dup() as copy:
                    server.close()
                    copy.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handles the signals that the arbiter sends, besides uvicorn's own."""
        loop = asyncio.get_running_loop()
        with super().capture_signals():
            loop.add_signal_handler(signal.SIGQUIT, self._end_now)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            try:
                yield
            finally:
                # uvicorn raises them again at the end, and Python tells of SIGINT by a traceback.
                self._captured_signals = [signal.SIGTERM for _ in self._captured_signals[:1]]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end. A second SIGINT, of a terminal besides the arbiter, changes nothing."""
        self._captured_signals.append(sig)
        self.should_exit = True

    def _end_now(self) -> None:
        """Ends without waiting for what runs."""
        self.should_exit = self.force_exit = True
        for connection in self.server_state.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def _reload(self) -> None:
        """Reads the certificate again, for new connections; keeps it where that cannot be done."""
        logger = logging.getLogger("uvicorn.error")
        config = self.config
        if config.ssl is None or config.ssl_certfile is None:
            logger.warning("SIGHUP: there is nothing to read again")
            return
        password = config.ssl_keyfile_password or ""
        try:
            # Tried first: a key that does not fit its certificate would be noticed half way.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.ssl):
                context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password)
        except OSError as error:
            logger.error("SIGHUP: the certificate cannot be read again: %s", error)
        else:
            logger.warning("SIGHUP: the certificate was read again")
