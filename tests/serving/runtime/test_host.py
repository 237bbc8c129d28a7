from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from serving import engine
from serving.job import Sampling
from serving.runtime import script as scripts
from serving.runtime.channel import Inbox, Outbox
from serving.runtime.framing import FrameReader, frame
from serving.runtime.host import MAX_FAILED_STEPS, Host, is_out_of_memory
from serving.runtime.messages import (
    Abort,
    ExitCode,
    Fatal,
    FromEngine,
    Generate,
    GetStats,
    Output,
    Ready,
    Shutdown,
    Stats,
    Step,
    ToEngine,
)
from serving.runtime.script import Scenario, Script, ScriptStep

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
                    *(sys.executable, "-m", "serving.runtime.host"),
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


Spawn = Callable[..., Child]


@pytest.fixture
def spawn(replay_engine: Callable[..., Path]) -> Iterator[Spawn]:
    """Returns a function that starts a host over a script."""
    children: list[Child] = []

    def start(*steps: ScriptStep, **fields: object) -> Child:
        script = Script(scenarios=(Scenario(steps=steps),), **fields)  # type: ignore[arg-type]
        children.append(Child(replay_engine(script)))
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_a_sequence_runs_from_its_request_to_its_finish(spawn: Spawn) -> None:
    child = spawn(scripts.Tokens(ids=(5, 6, 7)))
    assert child.ready().runtime == "replay"
    child.send(Generate(1, [1], ONE))
    assert child.outputs(1) == [Output(1, [5]), Output(1, [6]), Output(1, [7], "stop")]


def test_lifecycle_events_are_lines_of_json_on_stderr(spawn: Spawn) -> None:
    child = spawn(scripts.Stall())
    child.ready()
    child.send(Shutdown())
    assert child.exit_code() == ExitCode.PARENT_LEFT
    assert child.process.stderr is not None
    lines = [json.loads(line) for line in child.process.stderr]
    assert [line["event"] for line in lines] == ["engine_loading", "engine_ready", "engine_left"]


def test_an_idle_engine_sleeps(spawn: Spawn) -> None:
    child = spawn(scripts.Stall())
    child.ready()
    process = psutil.Process(child.process.pid)
    child.send(GetStats())
    assert isinstance(child.read(), Stats)
    before = process.cpu_times()
    child.end.settimeout(0.3)
    with pytest.raises(TimeoutError):
        child.end.recv(1)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.05


def test_an_abort_is_applied_before_the_next_step(spawn: Spawn) -> None:
    child = spawn(scripts.Repeat(ids=(5,)), pace_seconds=0.002)
    child.ready()
    child.send(Generate(1, [1], Sampling(max_tokens=100_000)))
    child.read()
    child.send(Abort(1), Abort(99), GetStats())
    while isinstance(message := child.read(), Step):
        pass
    assert isinstance(message, Stats)
    assert (message.running, message.blocks_used) == (0, 0)


def test_the_loop_answers_while_a_sequence_runs(spawn: Spawn) -> None:
    child = spawn(scripts.Stall())
    child.ready()
    child.send(Generate(1, [1], ONE), GetStats())
    message = child.read()
    assert isinstance(message, Stats)
    assert message.running + message.waiting == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_end_a_process_group_are_ignored(spawn: Spawn, number: int) -> None:
    child = spawn(scripts.Tokens(ids=(5,)))
    child.ready()
    os.kill(child.process.pid, number)
    child.send(Generate(1, [1], ONE))
    assert child.outputs(1) == [Output(1, [5], "stop")]


@pytest.mark.parametrize(
    ("steps", "fields"),
    [
        ((scripts.Stall(),), {}),
        ((scripts.Repeat(ids=(5,)),), {"pace_seconds": 0.002}),
        ((scripts.Hang(),), {}),
    ],
    ids=["stalled", "running", "hanging"],
)
def test_it_leaves_when_the_parent_does(
    spawn: Spawn,
    steps: tuple[ScriptStep, ...],
    fields: dict[str, object],
) -> None:
    child = spawn(*steps, **fields)
    child.ready()
    child.send(Generate(1, [1], Sampling(max_tokens=1_000_000)))
    child.end.close()
    assert child.exit_code() in (ExitCode.PARENT_LEFT, -signal.SIGKILL)


def test_it_leaves_while_it_loads_when_the_parent_does(spawn: Spawn) -> None:
    child = spawn(scripts.Stall(), load=(scripts.Hang(),))
    child.end.close()
    assert child.exit_code() in (ExitCode.PARENT_LEFT, -signal.SIGKILL)


@pytest.mark.parametrize(
    ("load", "code", "said"),
    [
        (scripts.Refuse(message="another GPU"), ExitCode.REFUSED, "another GPU"),
        (scripts.Fail(message="no luck"), ExitCode.FATAL, "no luck"),
        (scripts.Fail(message="full", exit_code=71), ExitCode.OUT_OF_MEMORY, "full"),
    ],
)
def test_a_failed_start_says_why_and_leaves_with_its_code(
    spawn: Spawn, load: scripts.LoadStep, code: int, said: str
) -> None:
    child = spawn(load=(load,))
    message = child.read()
    assert isinstance(message, Fatal)
    assert message == Fatal(code, said)
    assert child.read() is None
    assert child.exit_code() == code


def test_a_directory_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    child = Child(tmp_path)
    message = child.read()
    code = child.exit_code()
    child.close()
    assert isinstance(message, Fatal)
    assert "not an engine" in message.message
    assert code == ExitCode.REFUSED


def test_a_runtime_that_is_not_installed_is_refused(replay_engine: Callable[..., Path]) -> None:
    directory = replay_engine(Script(scenarios=(Scenario(steps=()),)))
    manifest = msgspec.structs.replace(engine.read(directory), runtime="trtllm")
    (directory / engine.MANIFEST_NAME).write_bytes(engine.encode(manifest))
    child = Child(directory)
    message = child.read()
    child.close()
    assert isinstance(message, Fatal)
    assert message.exit_code == ExitCode.REFUSED
    assert "cannot be imported here" in message.message


def test_noise_from_the_parent_ends_the_process(spawn: Spawn) -> None:
    child = spawn(scripts.Stall())
    child.ready()
    child.end.sendall(b"\xff\xff\xff\xff")
    assert child.exit_code() == ExitCode.FATAL


def test_no_memory_for_one_step_costs_the_youngest_sequence_only(spawn: Spawn) -> None:
    child = spawn(scripts.Tokens(ids=(5,)), scripts.Exhaust(), scripts.Tokens(ids=(6,)))
    child.ready()
    child.send(Generate(1, [1], ONE))
    [first, last] = child.outputs(1)
    assert first.tokens == [5]
    assert last.fault is not None
    assert last.fault.kind == "out_of_memory"
    child.send(GetStats())
    assert isinstance(child.read(), Stats)


class Failing:
    """A runtime whose steps raise what they are given."""

    def __init__(self, errors: list[Exception | None]) -> None:
        self.errors = errors
        self.aborted: list[int] = []
        self.live: list[int] = []

    def ready(self) -> Ready:
        raise NotImplementedError

    def submit(self, request: Generate) -> None:
        if request.prompt == [13]:
            raise KeyError("a secret")
        if request.prompt == [14]:
            raise MemoryError
        self.live.append(request.id)

    def abort(self, sequence_id: int) -> None:
        self.aborted.append(sequence_id)
        self.live.remove(sequence_id)

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def step(self) -> Step | None:
        error = self.errors.pop(0)
        if error is not None:
            raise error
        return Step([Output(self.live.pop(), [1], "stop")])

    def stats(self) -> Stats:
        return Stats()

    def close(self) -> None:
        self.live.clear()


class Table:
    """A host in this process: the test reads what it sends."""

    def __init__(self, runtime: Failing) -> None:
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        self.parent = Parent(self.ours)
        self.logged: list[str] = []
        inbox = Inbox(theirs, lambda why: None)
        for sequence_id in (1, 2, 3, 4):
            inbox.put(Generate(sequence_id, [1], ONE))
        self.inbox = inbox
        self.host = Host(
            runtime, inbox, Outbox(theirs), lambda event, detail: self.logged.append(event)
        )

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def table() -> Iterator[Callable[[list[Exception | None]], tuple[Table, Failing]]]:
    tables: list[Table] = []

    def make(errors: list[Exception | None]) -> tuple[Table, Failing]:
        runtime = Failing(errors)
        tables.append(Table(runtime))
        return tables[-1], runtime

    yield make
    for one in tables:
        one.close()


MakeTable = Callable[[list[Exception | None]], tuple[Table, Failing]]


def test_steps_that_keep_failing_for_memory_end_the_engine(table: MakeTable) -> None:
    host, runtime = table([MemoryError() for _ in range(MAX_FAILED_STEPS)])
    with pytest.raises(MemoryError):
        host.host.serve()
    assert runtime.aborted == [4, 3]


def test_a_good_step_forgives_the_failed_ones(table: MakeTable) -> None:
    host, runtime = table([MemoryError(), MemoryError(), None, MemoryError(), None])
    worker = threading.Thread(target=host.host.serve)
    worker.start()
    ends = [host.parent.read() for _ in range(4)]
    host.inbox.put(Shutdown())
    worker.join(TIMEOUT_SECONDS)
    assert not worker.is_alive()
    faults = [one.outputs[0].fault is not None for one in ends if isinstance(one, Step)]
    assert faults == [True, True, False, True]
    assert not runtime.busy


def test_an_unknown_error_of_a_step_ends_the_engine(table: MakeTable) -> None:
    host, _ = table([RuntimeError("CUDA error: an illegal memory access was encountered")])
    with pytest.raises(RuntimeError, match="illegal memory"):
        host.host.serve()


@pytest.mark.parametrize(("token", "kind"), [(13, "internal"), (14, "out_of_memory")])
def test_an_error_of_submit_ends_that_sequence_and_tells_nothing(
    table: MakeTable, token: int, kind: str
) -> None:
    host, runtime = table([])
    host.inbox.drain(wait=False)
    host.inbox.put(Generate(9, [token], ONE))
    host.inbox.put(Shutdown())
    host.host.serve()
    [output] = host.parent.outputs(9)
    assert output.fault is not None
    assert output.fault.kind == kind
    assert "secret" not in output.fault.message
    assert runtime.live == []


def test_out_of_memory_of_a_gpu_library_is_recognised_by_name() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    assert is_out_of_memory(OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("out of memory"))
