"""Runs `bentoml` as an operator does: a real command line, a store of its own, real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
BENTOML = Path(sys.executable).parent / "bentoml"
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    """Returns a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Returns this process's environment with a BentoML store of its own and no own settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENTOML_", "GPT_OSS_")) and "proxy" not in name.lower()
    }
    return {**kept, "BENTOML_HOME": str(home), "PYTHONUNBUFFERED": "1", **extra}


class Served:
    """A `bentoml serve` and what it has printed."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._lines: list[str] = []
        self._printed = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything printed until now."""
        with self._printed:
            return "".join(self._lines)

    def wait_for(self, pattern: str) -> str:
        """Returns the first line that holds the pattern, once it is printed."""
        deadline_seconds = PATIENCE_SECONDS
        with self._printed:
            found = self._printed.wait_for(
                lambda: self._find(pattern) is not None or self._over, deadline_seconds
            )
            line = self._find(pattern)
        assert found, f"no {pattern!r} in:\n{self.output}"
        assert line is not None, f"the server left without {pattern!r}:\n{self.output}"
        return line

    def wait_until_ready(self) -> str:
        """Returns the closing line of the start."""
        line = self.wait_for("^Ready: |^The engine does not start")
        assert line.startswith("Ready: "), self.output
        return line

    def processes(self) -> list[psutil.Process]:
        """Returns the server's process and all below it: worker and engine."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def engine(self) -> psutil.Process:
        """Returns the engine's process."""
        hosts = [p for p in self.processes() if "serving.engines.host" in " ".join(p.cmdline())]
        assert len(hosts) == 1
        return hosts[0]

    def sockets(self) -> tuple[set[tuple[str, int]], set[str]]:
        """Returns the ports (TCP that listens, all UDP) and the names of all Unix sockets."""
        ports: set[tuple[str, int]] = set()
        paths: set[str] = set()
        for process in self.processes():
            for found in process.net_connections(kind="all"):
                if isinstance(found.laddr, str):
                    paths |= {found.laddr} - {""}  # a pair has no name: nobody connects to it
                elif found.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    ports.add((found.laddr.ip, found.laddr.port))
        return ports, paths

    def wait_for_exit(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Returns the exit code of the command."""
        return self.process.wait(seconds)

    def close(self) -> None:
        """Ends the reading of a process that has ended."""
        self._reader.join(PATIENCE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _find(self, pattern: str) -> str | None:
        return next((line for line in self._lines if re.search(pattern, line)), None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self._lines.append(line)
                self._printed.notify_all()
        with self._printed:
            self._over = True
            self._printed.notify_all()


@contextmanager
def serve(
    home: Path,
    *arguments: str,
    bento: str = str(REPOSITORY),
    extra: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    before: Callable[[], object] | None = None,
) -> Iterator[Served]:
    """Runs `bentoml serve` in a session of its own; nothing of it outlives the block.

    `before` is called in the new process, before the command.
    """
    command, variables = [str(BENTOML), "serve", bento], environment(home, extra or {})
    with served_by(command, variables, *arguments, cwd=cwd, before=before) as served:
        yield served


@contextmanager
def served_by(
    command: Sequence[str],
    variables: Mapping[str, str],
    *arguments: str,
    cwd: Path = REPOSITORY,
    before: Callable[[], object] | None = None,
) -> Iterator[Served]:
    """Runs a command that serves, on a free port; nothing of it outlives the block."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), *arguments],
        cwd=cwd,
        env={"PYTHONUNBUFFERED": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )
    served = Served(process, port)
    try:
        yield served
    finally:
        _kill_all(served)


def _kill_all(served: Served) -> None:
    with suppress(psutil.NoSuchProcess):
        for process in served.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with suppress(ProcessLookupError):
        os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait(PATIENCE_SECONDS)
    served.close()


def bentoml(
    home: Path, *arguments: str, extra: Mapping[str, str] | None = None, cwd: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Runs a `bentoml` command to its end."""
    return run([str(BENTOML), *arguments], home, extra=extra, cwd=cwd)


def run(
    command: Sequence[str],
    home: Path,
    *,
    extra: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(home, extra or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
