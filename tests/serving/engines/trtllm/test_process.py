"""Each failure of TensorRT-LLM, through a real engine process: last words and exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

import serving
from serving.boundary.framing import FrameReader, frame
from serving.boundary.messages import (
    ExitCode,
    Fatal,
    FromEngine,
    Generate,
    Ready,
    Shutdown,
    Step,
    ToEngine,
)

TIMEOUT_SECONDS = 20.0
DOUBLES = Path(__file__).parents[3] / "doubles"
ROOT = Path(serving.__file__).parents[1]

TORCH = """
class cuda:
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod(lambda index: "NVIDIA H100 80GB HBM3")
"""
"""All that the runtime asks of torch, on a machine with the engine's GPUs."""

Make = Callable[..., Generate]
WriteEngine = Callable[..., Path]


class Child:
    """An engine process, and its parent's end of the socket."""

    def __init__(self, directory: Path, packages: Path, **variables: str) -> None:
        self._end, theirs = socket.socketpair()
        self._end.settimeout(TIMEOUT_SECONDS)
        self._reader = FrameReader()
        self._messages: list[FromEngine] = []
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "serving.engines.host"),
                    *("--fd", str(theirs.fileno()), "--engine", str(directory)),
                ],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(packages), str(DOUBLES)])}
                | variables,
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def send(self, message: ToEngine) -> None:
        self._end.sendall(frame(msgspec.msgpack.encode(message)))

    def read(self) -> FromEngine | None:
        while not self._messages:
            data = self._end.recv(65536)
            if not data:
                return None
            self._messages += [
                msgspec.msgpack.decode(payload, type=FromEngine)
                for payload in self._reader.feed(data)
            ]
        return self._messages.pop(0)

    def last_words(self) -> Fatal:
        while (message := self.read()) is not None:
            if isinstance(message, Fatal):
                return message
        raise AssertionError("the process left without a word")

    def close(self) -> None:
        self._end.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def spawn(tmp_path: Path, write_engine: WriteEngine) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH)

    def start(
        arguments: dict[str, Any] | None = None, *, variables: dict[str, str] | None = None
    ) -> Child:
        children.append(Child(write_engine(arguments), packages, **(variables or {})))
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_an_engine_serves_and_leaves(spawn: Callable[..., Child], generate: Make) -> None:
    child = spawn()
    ready = child.read()
    assert isinstance(ready, Ready)
    assert ready.runtime == "trtllm"
    child.send(generate(3, stop_after=4))
    tokens: list[int] = []
    finish = ""
    while not finish:
        step = child.read()
        assert isinstance(step, Step), step
        for output in step.outputs:
            tokens += output.tokens
            finish = output.finish
    assert finish == "stop"
    assert len(tokens) == 5
    assert tokens[-1] == 200_002
    child.send(Shutdown())
    assert child.process.wait(TIMEOUT_SECONDS) == ExitCode.PARENT_LEFT


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        ("nccl", ExitCode.COMMUNICATION, "NCCL error"),
        ("worker_killed", ExitCode.WORKER_LOST, "rank 1 (pid 4242) exited unexpectedly"),
        ("died_of_memory", ExitCode.OUT_OF_MEMORY, "CUDA out of memory"),
        ("fatal", ExitCode.FATAL, "an illegal memory access was encountered"),
        ("hang_detected", ExitCode.HUNG, "Hang detected"),
    ],
)
def test_a_lost_engine_leaves_with_its_own_code(
    spawn: Callable[..., Child],
    generate: Make,
    executor: ModuleType,
    fault: str,
    code: ExitCode,
    part: str,
) -> None:
    child = spawn()
    assert isinstance(child.read(), Ready)
    child.send(generate(1, fault=executor.FAULTS[fault], max_tokens=100))
    words = child.last_words()
    assert words.exit_code == code
    assert part in words.message
    assert child.process.wait(TIMEOUT_SECONDS) == code


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "part"),
    [
        (
            None,
            {"TENSORRT_LLM_DOUBLE_START_ERROR": "CUDA out of memory. Tried to allocate 2.00 GiB"},
            ExitCode.OUT_OF_MEMORY,
            "starting TensorRT-LLM",
        ),
        (None, {"TENSORRT_LLM_DOUBLE_VERSION": "1.2.1"}, ExitCode.REFUSED, "lacks fixes"),
        (None, {"TENSORRT_LLM_DOUBLE_VERSION": "1.4.0"}, ExitCode.REFUSED, "runtime_version"),
        ({"max_batch": 3}, {}, ExitCode.REFUSED, "arguments.max_batch: Extra inputs"),
    ],
)
def test_an_engine_that_cannot_start_says_why(
    spawn: Callable[..., Child],
    arguments: dict[str, Any] | None,
    variables: dict[str, str],
    code: ExitCode,
    part: str,
) -> None:
    child = spawn(arguments, variables=variables)
    words = child.last_words()
    assert words.exit_code == code
    assert part in words.message
    assert child.process.wait(TIMEOUT_SECONDS) == code


def test_a_machine_without_tensorrt_llm_refuses_the_engine(
    tmp_path: Path, write_engine: WriteEngine
) -> None:
    # The packages of the project, without the double.
    directory = write_engine()
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "tensorrt_llm.py").write_text("raise ImportError('libth_common.so is missing')")
    child = Child(directory, empty)
    words = child.last_words()
    assert words.exit_code == ExitCode.REFUSED
    assert "TensorRT-LLM cannot be imported here: libth_common.so is missing" in words.message
    assert child.process.wait(TIMEOUT_SECONDS) == ExitCode.REFUSED
    child.close()
