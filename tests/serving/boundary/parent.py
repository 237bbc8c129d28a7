"""The API process's part of the boundary, played by a test."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from serving.boundary.framing import FrameReader, frame
from serving.boundary.messages import (
    FromEngine,
    Output,
    Ready,
    Step,
    ToEngine,
)
from serving.boundary.sampling import Sampling

TIMEOUT_SECONDS = 20.0
ONE = Sampling(max_tokens=1000)


class Parent:
    """The API process's end of the socket, read and written plainly."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(TIMEOUT_SECONDS)
        self._reader = FrameReader()
        self._read: list[FromEngine] = []

    def send(self, *messages: ToEngine) -> None:
        self.end.sendall(b"".join(frame(msgspec.msgpack.encode(one)) for one in messages))

    def read(self) -> FromEngine | None:
        """Returns the next message, or None at the end."""
        while not self._read:
            data = self.end.recv(65536)
            if not data:
                return None
            self._read += [
                msgspec.msgpack.decode(payload, type=FromEngine)
                for payload in self._reader.feed(data)
            ]
        return self._read.pop(0)

    def outputs(self, sequence_id: int) -> list[Output]:
        """Returns the outputs of a sequence up to its finish."""
        found: list[Output] = []
        while not found or not found[-1].finish:
            message = self.read()
            assert isinstance(message, Step), message
            found += [output for output in message.outputs if output.id == sequence_id]
        return found


class Child(Parent):
    """A real engine process."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.engines.host"),
                    *("--fd", str(theirs.fileno()), "--engine", str(directory)),
                ],
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        super().__init__(ours)

    def ready(self) -> Ready:
        message = self.read()
        assert isinstance(message, Ready), message
        return message

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT_SECONDS)

    def close(self) -> None:
        self.end.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
