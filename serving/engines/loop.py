"""The engine loop: take in what has arrived, run a step, send its outputs."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from serving.boundary.channel import Inbox, Outbox
from serving.boundary.contract import Runtime
from serving.boundary.messages import (
    Abort,
    Fault,
    FaultKind,
    Generate,
    GetStats,
    Output,
    Shutdown,
    Step,
    ToEngine,
)

MAX_FAILED_STEPS = 3
"""Steps in a row that may fail for lack of memory before the engine is given up."""


class EngineLoop:
    """The engine loop over one runtime and one connection."""

    def __init__(
        self, runtime: Runtime, inbox: Inbox, outbox: Outbox, log: Callable[[str, str], None]
    ) -> None:
        self._runtime = runtime
        self._inbox = inbox
        self._outbox = outbox
        self._log = log
        self._live: dict[int, None] = {}
        """Sequences without a finish, in order of arrival."""
        self._failed_steps = 0

    def run(self) -> None:
        """Turns until `Shutdown` arrives.

        Raises OSError when the other side is gone, MemoryError when steps keep failing for lack of
        memory, FatalError and whatever else a step raises.
        """
        runtime, inbox = self._runtime, self._inbox
        while True:
            waits = not runtime.busy
            if waits:
                self._outbox.flush()
            for message in inbox.drain(wait=waits):
                if isinstance(message, Shutdown):
                    return
                self._take(message)
            if runtime.busy:
                self._step()

    def _take(self, message: ToEngine) -> None:
        match message:
            case Generate():
                self._live[message.id] = None
                try:
                    self._runtime.submit(message)
                except MemoryError:
                    self._fail(message.id, "out_of_memory", "The engine has no memory for this.")
                except Exception:
                    self._log("submit_failed", traceback.format_exc())
                    self._fail(message.id, "internal", "The engine could not take this request.")
            case Abort():
                self._live.pop(message.id, None)
                self._runtime.abort(message.id)
            case GetStats():
                self._outbox.send(self._runtime.stats())
            case Shutdown():
                raise ValueError("Shutdown is the loop's own")

    def _step(self) -> None:
        try:
            step = self._runtime.step()
        except MemoryError as error:
            self._log("step_out_of_memory", str(error))
            self._failed_steps += 1
            if self._failed_steps >= MAX_FAILED_STEPS or not self._live:
                raise
            youngest = next(reversed(self._live))
            self._runtime.abort(youngest)
            self._fail(youngest, "out_of_memory", "The engine ran out of memory.")
            return
        self._failed_steps = 0
        if step is not None:
            for output in step.outputs:
                if output.finish:
                    self._live.pop(output.id, None)
            self._outbox.send(step)

    def _fail(self, sequence_id: int, kind: FaultKind, message: str) -> None:
        self._live.pop(sequence_id, None)
        self._outbox.send(Step([Output(sequence_id, [], "error", fault=Fault(kind, message))]))
