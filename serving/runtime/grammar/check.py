"""Whether a grammar compiles, found out in a process that can be killed.

A schema of a few bytes can keep a compiler busy for minutes. What a client sends is therefore
compiled here first, under a budget of time and memory; only what passed goes to the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

import serving
from serving.errors import ErrorKind, ServingError

START_SECONDS = 60.0
"""How long the process may take until it is ready; it takes about a second."""
REMEMBERED = 1024
"""Verdicts that are kept, by the hash of the grammar."""
ATTEMPTS = 2
"""Processes that a grammar may see die before it is held to be the reason."""
_READ_BYTES = 65536


class GrammarCheck:
    """Checks grammars, one at a time. The process is started by the first.

    `on_loss` is told, in any thread, why a process has ended that was not to end.
    """

    def __init__(
        self,
        ranks: Path,
        vocab_size: int,
        budget_seconds: float,
        on_loss: Callable[[str], None],
    ) -> None:
        self._command = [
            *(sys.executable, "-P", "-m", "serving.runtime.grammar.process"),
            *("--ranks", str(ranks), "--vocab-size", str(vocab_size)),
            *("--alarm-seconds", str(math.ceil(budget_seconds) + 1)),
        ]
        self._budget_seconds = budget_seconds
        self._on_loss = on_loss
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def require(self, grammar: str, param: str | None) -> None:
        """Returns when a grammar can be used. Raises ServingError with `param` when it cannot."""
        key = hashlib.sha256(grammar.encode()).digest()
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await asyncio.to_thread(self._judge, key, grammar)
        else:
            self._verdicts.move_to_end(key)
        if verdict:
            raise ServingError(
                ErrorKind.INVALID_VALUE, f"The schema cannot be used: {verdict}.", param=param
            )

    def close(self) -> None:
        """Ends the process for good. A check that is under way fails."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._turn:
            self._end()

    def _judge(self, key: bytes, grammar: str) -> str:
        with self._turn:
            if (verdict := self._verdicts.get(key)) is not None:
                return verdict
            try:
                verdict = self._ask(grammar)
            except TimeoutError:
                # Not remembered: perhaps the whole machine was slow.
                self._end(f"killed: a schema took more than {self._budget_seconds:g} seconds")
                return f"to compile it takes more than {self._budget_seconds:g} seconds"
            self._verdicts[key] = verdict
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
            return verdict

    def _ask(self, grammar: str) -> str:
        """Returns the verdict of the process. Raises TimeoutError, ServingError."""
        for _ in range(ATTEMPTS):
            process = self._process or self._start()
            try:
                return self._exchange(process, grammar)
            except (EOFError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                self._end("it ended over a schema")
        # It died of this grammar each time: of its memory, or of a fault in the compiler.
        return "it cannot be compiled"

    def _start(self) -> subprocess.Popen[bytes]:
        """Returns a process that is ready. Raises ServingError."""
        if self._closed:
            raise ServingError(ErrorKind.DRAINING, "The server is shutting down.")
        root = str(Path(serving.__file__).parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        process = self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the compiler writes parts of what clients sent there
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            _read_line(process, START_SECONDS)
        except (TimeoutError, EOFError):
            self._end("it did not start")
            raise ServingError(
                ErrorKind.INTERNAL, "The compiler of schemas does not start."
            ) from None
        return process

    def _exchange(self, process: subprocess.Popen[bytes], grammar: str) -> str:
        if process.stdin is None:
            raise EOFError
        process.stdin.write(msgspec.json.encode(grammar) + b"\n")
        process.stdin.flush()
        return msgspec.json.decode(_read_line(process, self._budget_seconds), type=str)

    def _end(self, why: str = "") -> None:
        """Kills the process, where there is one, and frees what it held.

        With a `why` this is a loss: that it ended by itself, or why it could not go on.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        try:
            process.communicate()
        except (BrokenPipeError, ValueError):
            process.wait()
        if why and not self._closed:
            self._on_loss(f"{why}; exit code {process.returncode}")


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Returns the next line. Raises TimeoutError, and EOFError when the process has ended."""
    if process.stdout is None:
        raise EOFError
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    due = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, due - time.monotonic()) * 1000):
            raise TimeoutError
        data = os.read(process.stdout.fileno(), _READ_BYTES)
        if not data:
            raise EOFError
        line += data
    return line
