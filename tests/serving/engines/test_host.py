from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from serving.boundary import engine
from serving.boundary.messages import (
    Abort,
    ExitCode,
    Fatal,
    Generate,
    GetStats,
    Output,
    Shutdown,
    Stats,
    Step,
)
from serving.boundary.sampling import Sampling
from serving.engines.host import is_out_of_memory
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script, ScriptStep
from tests.serving.boundary.parent import ONE, Child

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


def test_out_of_memory_of_a_gpu_library_is_recognised_by_name() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    assert is_out_of_memory(OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("out of memory"))
