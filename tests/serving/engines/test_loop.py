from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from serving.boundary.channel import Inbox, Outbox
from serving.boundary.messages import (
    Generate,
    Output,
    Ready,
    Shutdown,
    Stats,
    Step,
)
from serving.engines.loop import MAX_FAILED_STEPS, EngineLoop
from tests.serving.boundary.parent import ONE, TIMEOUT_SECONDS, Parent


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
    """A loop in this process: the test reads what it sends."""

    def __init__(self, runtime: Failing) -> None:
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        self.parent = Parent(self.ours)
        self.logged: list[str] = []
        inbox = Inbox(theirs, lambda why: None)
        for sequence_id in (1, 2, 3, 4):
            inbox.put(Generate(sequence_id, [1], ONE))
        self.inbox = inbox
        self.loop = EngineLoop(
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
    made, runtime = table([MemoryError() for _ in range(MAX_FAILED_STEPS)])
    with pytest.raises(MemoryError):
        made.loop.run()
    assert runtime.aborted == [4, 3]


def test_a_good_step_forgives_the_failed_ones(table: MakeTable) -> None:
    made, runtime = table([MemoryError(), MemoryError(), None, MemoryError(), None])
    worker = threading.Thread(target=made.loop.run)
    worker.start()
    ends = [made.parent.read() for _ in range(4)]
    made.inbox.put(Shutdown())
    worker.join(TIMEOUT_SECONDS)
    assert not worker.is_alive()
    faults = [one.outputs[0].fault is not None for one in ends if isinstance(one, Step)]
    assert faults == [True, True, False, True]
    assert not runtime.busy


def test_an_unknown_error_of_a_step_ends_the_engine(table: MakeTable) -> None:
    made, _ = table([RuntimeError("CUDA error: an illegal memory access was encountered")])
    with pytest.raises(RuntimeError, match="illegal memory"):
        made.loop.run()


@pytest.mark.parametrize(("token", "kind"), [(13, "internal"), (14, "out_of_memory")])
def test_an_error_of_submit_ends_that_sequence_and_tells_nothing(
    table: MakeTable, token: int, kind: str
) -> None:
    made, runtime = table([])
    made.inbox.drain(wait=False)
    made.inbox.put(Generate(9, [token], ONE))
    made.inbox.put(Shutdown())
    made.loop.run()
    [output] = made.parent.outputs(9)
    assert output.fault is not None
    assert output.fault.kind == kind
    assert "secret" not in output.fault.message
    assert runtime.live == []
