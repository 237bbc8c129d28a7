"""What a dead, blocked or exhausted engine does to `Streams`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from serving.boundary.contract import FatalError
from serving.boundary.messages import ExitCode, Output
from serving.engines.trtllm.streams import Streams, Submission

Start = Callable[..., tuple[Streams, Any]]


@pytest.fixture
def start(double: ModuleType) -> Iterator[Start]:
    started: list[Streams] = []

    def make(**options: Any) -> tuple[Streams, Any]:
        llm = double.LLM("checkpoint", skip_tokenizer_init=True, max_seq_len=1000)
        streams = Streams(llm, health_seconds=0.02, **options)
        started.append(streams)
        streams.start()
        return streams, llm

    yield make
    for streams in started:
        streams.close(0.1)


def submission(double: ModuleType, sequence_id: int, fault: int, stop: int = 0) -> Submission:
    parameters = double.SamplingParams(max_tokens=30, end_id=-1)
    return Submission(sequence_id, [stop, fault], parameters, 0.5, "", None)


def until_broken(streams: Streams) -> tuple[FatalError, list[Output]]:
    outputs: list[Output] = []
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            outputs += streams.take(0.05).outputs
        except FatalError as error:
            return error, outputs
    raise AssertionError("the engine is still held to be well")


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        ("nccl", ExitCode.COMMUNICATION, "NCCL error"),
        ("worker_killed", ExitCode.WORKER_LOST, "pid 4242"),
        ("died_of_memory", ExitCode.OUT_OF_MEMORY, "CUDA out of memory"),
        ("fatal", ExitCode.FATAL, "illegal memory access"),
        ("hang_detected", ExitCode.HUNG, "Hang detected on rank 1"),
    ],
)
def test_a_lost_engine_is_noticed_and_named(
    double: ModuleType, executor: ModuleType, start: Start, fault: str, code: ExitCode, part: str
) -> None:
    streams, _ = start()
    streams.submit(submission(double, 1, executor.FAULTS[fault]))
    streams.submit(submission(double, 2, 5))
    error, outputs = until_broken(streams)
    assert error.exit_code == code
    assert part in str(error)
    # What had arrived was handed over first, and no finish was made up.
    assert len(outputs) >= 2
    assert not any(output.finish == "error" for output in outputs)


def test_an_idle_engine_that_dies_is_noticed(start: Start) -> None:
    streams, llm = start()
    streams.check()
    llm._executor._fatal_error = RuntimeError("CUDA error: unspecified launch failure")
    error, _ = until_broken(streams)
    assert error.exit_code == ExitCode.FATAL
    with pytest.raises(FatalError):
        streams.check()


def test_a_blocked_loop_is_a_hang(double: ModuleType, executor: ModuleType, start: Start) -> None:
    streams, _ = start(stall_seconds=0.3)
    streams.submit(submission(double, 1, executor.FAULTS["blocks_the_loop"]))
    error, _ = until_broken(streams)
    assert error.exit_code == ExitCode.HUNG
    assert "blocks its event loop" in str(error)


def test_running_out_of_memory_again_and_again_gives_the_engine_up(
    double: ModuleType, executor: ModuleType, start: Start
) -> None:
    streams, _ = start()
    for sequence_id in (1, 2, 3):
        streams.submit(submission(double, sequence_id, executor.FAULTS["exhausted"]))
    error, outputs = until_broken(streams)
    assert error.exit_code == ExitCode.OUT_OF_MEMORY
    faults = [output.fault.kind for output in outputs if output.fault]
    assert faults == ["out_of_memory"] * 3


def test_a_success_between_two_exhaustions_counts_anew(
    double: ModuleType, executor: ModuleType, start: Start
) -> None:
    streams, _ = start()
    for sequence_id in range(1, 8):
        fault = executor.FAULTS["exhausted"] if sequence_id % 2 else 5
        streams.submit(submission(double, sequence_id, fault))
        finished = False
        until = time.monotonic() + 20
        while not finished and time.monotonic() < until:
            finished = any(output.finish for output in streams.take(0.05).outputs)
        assert finished
    streams.check()


def test_a_request_after_the_shutdown_loses_the_engine(double: ModuleType, start: Start) -> None:
    streams, llm = start()
    llm.shutdown()
    streams.submit(submission(double, 1, 5))
    error, _ = until_broken(streams)
    assert error.exit_code in (ExitCode.FATAL, ExitCode.WORKER_LOST)
