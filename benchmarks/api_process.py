"""Starts the service in a process of its own, under `bentoml serve` or under uvicorn alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Host = Literal["bentoml", "uvicorn"]

READY_SECONDS = 120.0
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class ApiProcess:
    """A running service. `api` is the process that speaks HTTP, `engine` the one that computes."""

    port: int
    api: psutil.Process
    engine: psutil.Process

    def cpu_seconds(self) -> tuple[float, float]:
        """Returns the CPU time that the API process and the engine process have used."""
        return _cpu_seconds(self.api), _cpu_seconds(self.engine)


@contextmanager
def serving(engine: Path, host: Host) -> Iterator[ApiProcess]:
    """Runs the service on `engine` for as long as the block lasts."""
    port = free_port()
    environment = {
        **os.environ,
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_LOG_LEVEL": "warning",
        "BENTOML_DO_NOT_TRACK": "True",
    }
    process = subprocess.Popen(
        _command(host, port),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_ready(port, process)
        yield _find(port, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _command(host: Host, port: int) -> list[str]:
    if host == "bentoml":
        program = [sys.executable, "-m", "bentoml", "serve", "service:GptOss"]
    else:
        program = [
            *(sys.executable, "-m", "uvicorn", "--factory", "benchmarks.api_process:make_app"),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
        ]
    return [*program, "--host", "127.0.0.1", "--port", str(port)]


def make_app() -> object:
    """Returns the service's ASGI app, for `uvicorn --factory`."""
    from serving.app import create_app
    from serving.hosting.garbage import set_aside
    from serving.settings import load_settings

    return create_app(load_settings(), on_loaded=set_aside)


def free_port() -> int:
    """Returns a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when `/readyz` says so. Raises RuntimeError when that does not come about."""
    due = time.monotonic() + READY_SECONDS
    while time.monotonic() < due:
        if process.poll() is not None:
            raise RuntimeError(f"the service left with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the service was not ready within {READY_SECONDS:g} seconds")


def _find(port: int, root: psutil.Process) -> ApiProcess:
    """Returns the API process: the parent of the engine's host process."""
    for process in root.children(recursive=True):
        if "serving.engines.host" in process.cmdline():
            parent = process.parent()
            if parent is not None:
                return ApiProcess(port, parent, process)
    raise RuntimeError("no engine process was found")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
