"""Child processes: started, connected, collected, and killed with all that has come of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import serving
from serving.boundary import family
from serving.boundary.framing import widen
from serving.boundary.link import Link

ENVIRONMENT = {
    # glibc otherwise keeps a heap a thread, which costs hundreds of megabytes beside torch.
    "MALLOC_ARENA_MAX": "2",
    # OpenMP's threads otherwise spin at every barrier for milliseconds, on cores that the API and
    # others need. This is long enough for the barriers within a step: 16 streams lose a fifth of
    # their rate where the threads go to sleep at each.
    "GOMP_SPINCOUNT": "10000",
    # Huge pages where the kernel gives them on request: a step walks over all weights, and with
    # small pages a tenth of its time goes to finding them.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What a process that computes gets unless the environment says otherwise."""

_LEAVE_SECONDS = 0.5
_KILL_SECONDS = 10.0

LinkT = TypeVar("LinkT", bound=Link[Any, Any])


class Child(Generic[LinkT]):
    """One child process, the leader of its own session and process group, and the link to it.

    `exited` gets the return code (negative: the signal) when the process is gone. Whatever it has
    started dies with it: its group, and those who have left that but carry its mark.
    """

    def __init__(
        self,
        link: LinkT,
        module: str,
        *options: str,
        environment: Mapping[str, str] = os.environ,
        quiet: bool = False,
    ) -> None:
        """Starts it; `loaded` connects the link. Raises OSError.

        `module` is what runs; `entry.enter` is how it begins. Standard output and error are
        inherited, or nowhere with `quiet`.
        """
        self.link = link
        self._mark = secrets.token_hex(16)
        output = subprocess.DEVNULL if quiet else None
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                widen(self._end)
                self._end.setblocking(False)
                self._process = subprocess.Popen(
                    command(module, "--fd", str(theirs.fileno()), *options),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=with_package(environment) | {family.MARK: self._mark},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self._end.close()
            raise
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._collecting = threading.Lock()
        self._collected = False
        # A thread, because it works under every event loop and on every Unix, and is asleep.
        threading.Thread(target=self._collect, name="child-exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id; also that of its group."""
        return self._process.pid

    async def wait(self, seconds: float) -> int | None:
        """Returns the return code, or None when the process still lives after `seconds`."""
        await asyncio.wait({self.exited}, timeout=seconds)
        return self.exited.result() if self.exited.done() else None

    async def loaded(self, seconds: float) -> bool:
        """Waits until the process is ready or lost, at most `seconds`; True: it is ready.

        Called once, right after the start.
        """
        await self._loop.create_unix_connection(lambda: self.link, sock=self._end)
        waited_for: set[asyncio.Future[Any]] = {self.link.ready, self.link.closed, self.exited}
        await asyncio.wait(waited_for, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self.link.ready.done()

    async def end(self, grace_seconds: float = 0.0) -> int | None:
        """Kills the process if it still lives after `grace_seconds`; returns the return code."""
        try:
            if grace_seconds:
                await self.wait(grace_seconds)
        finally:
            self.kill()
        return await self.wait(_KILL_SECONDS)

    async def give_up(self, why: str) -> str:
        """Ends a process that is of no more use; returns in one line why, and its exit code.

        `why` is said unless the connection has ended with a reason of its own.
        """
        # One that has ended the connection may still be saying why it leaves.
        grace_seconds = _LEAVE_SECONDS if self.link.closed.done() else 0.0
        self.link.close(why)
        exit_code = await self.end(grace_seconds)
        return f"{self.link.closed.result() or why}; exit code {exit_code}"

    def kill(self) -> None:
        """Kills the process, stopped or not; `exited` follows."""
        # Not Popen's own kill: it would collect a process that has just ended before the thread.
        with self._collecting:
            if not self._collected:
                with contextlib.suppress(ProcessLookupError):  # Something else collected it.
                    os.kill(self._process.pid, signal.SIGKILL)

    def _collect(self) -> None:
        """Waits for the end. The id stays taken until `wait`, so it is no other's when used."""
        with contextlib.suppress(ChildProcessError):  # Something else here collects all children.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        family.end(self._mark, spare=(self._process.pid,))
        with self._collecting:
            code = self._process.wait()
            self._collected = True
        with contextlib.suppress(RuntimeError):  # The loop has closed: nobody asks any more.
            self._loop.call_soon_threadsafe(self._set_exited, code)

    def _set_exited(self, code: int) -> None:
        if not self.exited.done():
            self.exited.set_result(code)


def command(module: str, *options: str) -> list[str]:
    """Returns the command that runs a module in this interpreter."""
    return [sys.executable, "-P", "-m", module, *options]


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment in which this very `serving` package is found."""
    root = str(Path(serving.__file__).parents[1])
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}
