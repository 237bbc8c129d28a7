"""uvicorn's server under the service's own settings: the host makes it, with the host's socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator

import uvicorn

from serving.api.wire.protocols import use_protocols
from serving.settings import Http


class Server(uvicorn.Server):
    """Serves HTTP as `settings` say; what the host's command line says of the same is not heard.

    `announce` is run while requests are taken, with the listening socket and whether it speaks TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Http,
        announce: Callable[[socket.socket, bool], Coroutine[None, None, None]],
    ) -> None:
        config.timeout_keep_alive = settings.keep_alive_seconds
        use_protocols(config)
        config.proxy_headers = False  # the API's own: uvicorn's takes FORWARDED_ALLOW_IPS as well
        if settings.tls_certificate is not None:
            config.ssl_certfile, config.ssl_keyfile = settings.tls_certificate, settings.tls_key
            config.ssl_keyfile_password = None
        super().__init__(config)
        self._announce = announce
        self._announcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        await super().startup(sockets)
        if sockets and self.started:
            announcement = self._announce(sockets[0], self.config.is_ssl)
            self._announcing = asyncio.create_task(announcement)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handles the signals that the arbiter sends, besides uvicorn's own."""
        loop = asyncio.get_running_loop()
        with super().capture_signals():
            loop.add_signal_handler(signal.SIGQUIT, self._end_now)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            yield

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
