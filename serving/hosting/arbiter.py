"""BentoML's arbiter, the process above the worker: what circus makes of it, made safe.

circus lets whoever reaches its two sockets run commands as the arbiter's user. BentoML gives them
TCP ports, which every local user and every container of a pod reaches.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import click
import psutil
from circus import controller
from circus.arbiter import Arbiter
from circus.exc import ConflictError
from circus.sighandler import SysHandler
from circus.sockets import CircusSocket

from serving.boundary import family
from serving.settings import Http

FORCED_SECONDS = 2.0
"""After the second signal, until a worker that has not left is killed."""

_RETRY_SECONDS = 0.1


def guard(settings: Http) -> None:
    """Changes every arbiter that this process makes from now on.

    No command reaches it from outside. It serves on a Unix socket where `settings` say so. Its
    signals are those of `Signals`.
    """
    make = Arbiter.__init__

    @functools.wraps(make)
    def make_private(
        arbiter: Arbiter,
        watchers: Sequence[Any],
        *,
        sockets: Sequence[CircusSocket],
        plugins: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        # Within this process there is no socket at all. A plugin (`--reload`) is another process.
        where = f"ipc://{_private_directory()}/" if plugins else f"inproc://{id(arbiter)}-"
        options |= {"endpoint": f"{where}control", "pubsub_endpoint": f"{where}events"}
        sockets = list(_placed(sockets, settings))
        make(arbiter, watchers, sockets=sockets, plugins=plugins, **options)

    Arbiter.__init__ = make_private
    controller.SysHandler = Signals
    logging.getLogger("bentoml.serve").addFilter(_is_no_address)


class ApiSocket(CircusSocket):
    """What the API is served on. A Unix socket takes the place of what a dead service has left."""

    def bind_and_listen(self) -> None:
        """Listens. Raises ClickException, one line on the terminal, where that cannot be done."""
        mask = os.umask(0)
        os.umask(mask)
        try:
            if self.is_unix:
                self._remove_stale()
            super().bind_and_listen()
        except OSError as error:
            reason = error.strerror or error
            raise click.ClickException(f"cannot listen at {self.location}: {reason}") from None
        finally:
            os.umask(mask)  # circus leaves its own behind when it cannot bind

    def _remove_stale(self) -> None:
        """Removes a socket that nobody listens on. Raises OSError for anything else there."""
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise OSError("is not a socket")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(self.path)
        else:
            raise OSError("another service listens there")


class Signals(SysHandler):
    """What the arbiter does on its signals.

    The first SIGINT is passed on, SIGTERM and SIGQUIT as SIGTERM; all wait for the worker's
    streams. The second ends everything at once: SIGQUIT to the worker, SIGKILL when it is still
    there after `FORCED_SECONDS`. SIGHUP is the worker's; from a terminal that has gone it is a
    SIGTERM.
    """

    def __init__(self, controller: Any) -> None:
        self._ending = False
        self._terminal = _has_terminal()
        super().__init__(controller)
        if self._old[signal.SIGHUP] is signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        """Passes SIGHUP on; circus would start a second worker, and that a second engine."""
        if self._terminal and not _has_terminal():
            self.quit()
            return
        for watcher in self.controller.arbiter.watchers:
            if watcher.use_sockets:  # a plugin has none, and would die of it
                _send(watcher, signal.SIGHUP)

    def handle_int(self) -> None:
        """Ends as from a terminal: the worker gives no notice."""
        for watcher in self.controller.arbiter.watchers:
            watcher.stop_signal = signal.SIGINT
        self.quit()

    def quit(self) -> None:
        """Begins the end, or makes it short."""
        loop = self.controller.loop
        if not self._ending:
            self._ending = True
            loop.add_callback_from_signal(self._stop)
            return
        for mark in set(self._families()):
            atexit.register(family.end, mark)
        self._send_all(signal.SIGQUIT)
        kill = functools.partial(self._send_all, signal.SIGKILL)
        loop.add_callback_from_signal(loop.call_later, FORCED_SECONDS, kill)

    def _stop(self) -> None:
        """Stops the worker and then the arbiter, once that may be asked for it."""
        try:
            # BentoML's arbiter in a thread begins to stop, then would wait for this very thread.
            with suppress(RuntimeError):
                self.controller.arbiter.stop()
        except ConflictError:  # It is starting a worker, or looking after it.
            self.controller.loop.call_later(_RETRY_SECONDS, self._stop)

    def _send_all(self, number: int) -> None:
        for watcher in self.controller.arbiter.watchers:
            _send(watcher, number)

    def _families(self) -> Iterator[str]:
        """Yields the mark of each process that a worker has started to compute for it."""
        for watcher in self.controller.arbiter.watchers:
            for worker in watcher.get_active_processes():
                with suppress(psutil.Error):
                    for child in psutil.Process(worker.pid).children():
                        if mark := child.environ().get(family.MARK):
                            yield mark


def _send(watcher: Any, number: int) -> None:
    """Sends a signal to the processes of a watcher, not to their children."""
    for process in watcher.get_active_processes():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _placed(sockets: Sequence[CircusSocket], settings: Http) -> Iterator[CircusSocket]:
    """Yields the sockets to serve on: the only one that is not of the file system is the API's."""
    for given in sockets:
        if given.is_unix:
            yield given
            continue
        given.close()  # not bound yet
        place = {"host": given.host, "port": given.port, "family": given.family}
        if settings.unix_socket is not None:
            # Created with its mode: there is no moment in which others may connect.
            mask = 0o777 & ~int(settings.unix_socket_mode, 8)
            place = {"path": settings.unix_socket, "umask": mask}
        yield ApiSocket(name=given.name, backlog=given.backlog, **place)


def _is_no_address(record: logging.LogRecord) -> bool:
    """Returns False for BentoML's line that says where it listens.

    It is wrong under TLS, for IPv6 and for a Unix socket; the announcement says where.
    """
    return not str(record.msg).startswith("Starting production")


def _private_directory() -> str:
    """Returns a new directory of mode 0700 that goes with this process."""
    directory = tempfile.mkdtemp(prefix="gpt-oss-arbiter-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _has_terminal() -> bool:
    """Returns whether this process can be reached from a terminal, and hears when that closes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
