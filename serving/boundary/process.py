"""Starting, collecting and killing the engine process."""

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
from collections.abc import Mapping, Sequence
from pathlib import Path

import serving
from serving.boundary import family
from serving.boundary.framing import widen

HOST = "serving.engines.host"

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
"""What the engine process gets unless the environment says otherwise."""


class EngineProcess:
    """One engine process, the leader of its own session and process group.

    `exited` gets the return code (negative: the signal) when the process is gone. Whatever it has
    started dies with it: its group, and those who have left that but carry its mark.
    """

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._collecting = threading.Lock()
        self._collected = False
        # A thread, because it works under every event loop and on every Unix, and is asleep.
        threading.Thread(target=self._collect, name="engine-exit", daemon=True).start()

    @classmethod
    def spawn(
        cls,
        directory: Path,
        environment: Mapping[str, str],
        module: str = HOST,
        options: Sequence[str] = (),
    ) -> tuple[EngineProcess, socket.socket]:
        """Returns a started process and this end of its connection. Raises OSError.

        `environment` is added to this process's own. Standard output and error are inherited.
        `module` is what runs, the host of engines unless told otherwise; `options` are its own.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mark = secrets.token_hex(16)
        try:
            with theirs:
                widen(ours)
                ours.setblocking(False)
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", module),
                        *("--fd", str(theirs.fileno()), "--engine", str(directory)),
                        *options,
                    ],
                    stdin=subprocess.DEVNULL,
                    env=_environment(environment) | {family.MARK: mark},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, mark), ours

    @property
    def pid(self) -> int:
        """The process's id; also that of its group."""
        return self._process.pid

    async def wait(self, seconds: float) -> int | None:
        """Returns the return code, or None when the process still lives after `seconds`."""
        await asyncio.wait({self.exited}, timeout=seconds)
        return self.exited.result() if self.exited.done() else None

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
        with self._collecting:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            family.end(self._mark, spare=(self._process.pid,))
            code = self._process.wait()
            self._collected = True
        with contextlib.suppress(RuntimeError):  # The loop has closed: nobody asks any more.
            self._loop.call_soon_threadsafe(self._set_exited, code)

    def _set_exited(self, code: int) -> None:
        if not self.exited.done():
            self.exited.set_result(code)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Returns the process's environment, in which this very `serving` package is found."""
    root = str(Path(serving.__file__).parents[1])
    environment = ENVIRONMENT | dict(os.environ) | dict(extra)
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
