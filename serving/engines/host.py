"""The engine process: `python -m serving.engines.host --fd N --engine DIRECTORY`.

It loads the runtime that the engine names, says `Ready`, and turns the engine loop. It is started
by the supervisor and lives as long as the other end of the socket: it leaves when that closes, even
while it loads or hangs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Protocol, cast

import msgspec

from serving.boundary import engine, family
from serving.boundary.channel import Inbox, Outbox
from serving.boundary.contract import FatalError, Runtime
from serving.boundary.engine import EngineError, RuntimeName
from serving.boundary.entry import enter
from serving.boundary.messages import (
    ExitCode,
    Fatal,
    Shutdown,
)
from serving.engines.loop import EngineLoop
from serving.hosting.garbage import set_aside

RUNTIMES: dict[RuntimeName, str] = {
    "embedded": "serving.engines.embedded.runtime:EmbeddedRuntime",
    "replay": "serving.engines.replay.runtime:ReplayRuntime",
    "trtllm": "serving.engines.trtllm:TrtllmRuntime",
}
"""Where each runtime is. Only the one that an engine names is imported."""

_CLOSE_SECONDS = 2.0
_SWITCH_SECONDS = 0.001
"""How long the engine loop may keep the interpreter from the inbox; Python's own is 5 ms."""


class Loadable(Protocol):
    """What `RUNTIMES` names: a class that makes a runtime of an engine directory."""

    def load(self, directory: Path) -> Runtime:
        """Returns the loaded runtime. Raises EngineError when the engine does not belong here."""
        ...


class Process:
    """The life of the engine process around the loop: loading, reporting, leaving."""

    def __init__(self, end: socket.socket, directory: Path) -> None:
        self._directory = directory
        self._began = time.monotonic()
        self._loaded = threading.Event()
        self._inbox = Inbox(end, self._on_left)
        self._outbox = Outbox(end)

    def run(self) -> int:
        """Returns the exit code, once the engine has served or has failed to start."""
        self._inbox.start()
        self.log("engine_loading", str(self._directory))
        try:
            runtime = self._load()
            self._loaded.set()
            set_aside()
            ready = runtime.ready()
            self._outbox.send(ready)
            self.log("engine_ready", f"{ready.runtime} {ready.runtime_version} on {ready.device}")
            EngineLoop(runtime, self._inbox, self._outbox, self.log).run()
            runtime.close()
        except EngineError as error:
            return self._fail(ExitCode.REFUSED, str(error))
        except FatalError as error:
            return self._fail(error.exit_code, str(error))
        except ConnectionError:
            self.log("engine_left", "the API process is gone")
            return ExitCode.PARENT_LEFT
        except Exception as error:
            if is_out_of_memory(error):
                return self._fail(ExitCode.OUT_OF_MEMORY, f"out of memory: {error}")
            self.log("engine_bug", traceback.format_exc())
            return self._fail(ExitCode.FATAL, f"{type(error).__name__}: {error}")
        self.log("engine_left", "the API process has ended it")
        return ExitCode.PARENT_LEFT

    def log(self, event: str, detail: str) -> None:
        """Writes one line of JSON to stderr."""
        line = {
            "event": event,
            "detail": detail,
            "engine_pid": os.getpid(),
            "seconds": round(time.monotonic() - self._began, 3),
        }
        sys.stderr.write(msgspec.json.encode(line).decode() + "\n")
        sys.stderr.flush()

    def _load(self) -> Runtime:
        """Returns the runtime. Raises EngineError, also when its package is not installed."""
        name = engine.read(self._directory).runtime
        module_name, _, class_name = RUNTIMES[name].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise EngineError(f"the runtime {name} cannot be imported here: {error}") from error
        return cast(Loadable, getattr(module, class_name)).load(self._directory)

    def _fail(self, exit_code: int, message: str) -> int:
        self.log("engine_failed", message)
        try:
            self._outbox.send(Fatal(exit_code, message))
            self._outbox.flush()
        except OSError:
            self.log("engine_orphaned", "the API process has gone")
        return exit_code

    def _on_left(self, why: str) -> None:
        """Ends the process: at once while it loads, else after a chance to close the runtime."""
        if why:
            self.log("engine_misled", why)
            os._exit(ExitCode.FATAL)
        if self._loaded.is_set():
            self._inbox.put(Shutdown())
            time.sleep(_CLOSE_SECONDS)
        end_group()


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True for Python's MemoryError and for a GPU library's own OutOfMemoryError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def end_group() -> None:
    """Ends this process now, and with it every process that has come of it: those that carry the
    mark of its start, and those of a group that it leads."""
    family.end(os.environ.get(family.MARK, ""), spare=(os.getpid(),))
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(ExitCode.PARENT_LEFT)


def main(arguments: list[str]) -> int:
    """Runs the engine process; returns its exit code, one of `ExitCode`."""
    parser = argparse.ArgumentParser(prog="serving.engines.host")
    parser.add_argument("--engine", type=Path, required=True, help="the engine directory")
    end, options = enter(parser, arguments)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with end:
        return Process(end, options.engine).run()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads of a GPU library can keep an interpreter from ending.
    os._exit(code)
