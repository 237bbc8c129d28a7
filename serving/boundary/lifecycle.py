"""The words for what an engine process goes through, and the policy for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from serving.errors import ErrorKind, ServingError


class EngineState(Enum):
    """Where the engine is now. It serves only in READY."""

    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    """It stopped serving; its process is being collected."""
    BACKOFF = "backoff"
    """It is waited before the next start."""
    FAILED = "failed"
    """It is not started again: a person has to look."""
    STOPPED = "stopped"


class Cause(Enum):
    """Why the state changed. The values are metric labels."""

    REQUESTED = "requested"
    """The service started or stopped it."""
    LOADED = "loaded"
    BACKOFF_OVER = "backoff_over"
    DISCONNECTED = "disconnected"
    """The connection ended; how the process ended is not known yet."""
    KILLED = "killed"
    """A signal that the supervisor did not send, as of the kernel's out-of-memory killer."""
    EXITED = "exited"
    """The process left by itself without a reason."""
    FATAL = "fatal"
    OUT_OF_MEMORY = "out_of_memory"
    REFUSED = "refused"
    """The engine does not belong on this machine, or is damaged: not retried."""
    WORKER_LOST = "worker_lost"
    """A process of another rank died."""
    COMMUNICATION = "communication"
    """The ranks could no longer talk to each other."""
    HUNG = "hung"
    """It answered nothing for `stall_seconds`."""
    NO_PROGRESS = "no_progress"
    """It answered, but made no step for `progress_seconds` with sequences running."""
    LOAD_TIMEOUT = "load_timeout"
    PROTOCOL = "protocol"
    """It sent what is no message."""
    SPAWN = "spawn"
    """The process could not be started."""
    INTERNAL = "internal"
    """The supervisor itself failed."""


FAILURES: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.KILLED: "its process was killed",
        Cause.EXITED: "its process ended",
        Cause.DISCONNECTED: "its process ended",
        Cause.OUT_OF_MEMORY: "it ran out of memory",
        Cause.REFUSED: "it is damaged or does not belong on this machine",
        Cause.WORKER_LOST: "one of its processes died",
        Cause.COMMUNICATION: "its processes could not talk to each other",
        Cause.HUNG: "it gave no sign of life",
        Cause.NO_PROGRESS: "it made no progress",
        Cause.LOAD_TIMEOUT: "it was not loaded in time",
        Cause.SPAWN: "its process could not be started",
    }
)
"""What clients are told of a cause; of another only that it is an internal error."""


def failed(why: str) -> ServingError:
    """Returns what requests are told once an engine is given up. No time to come back: none is."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE,
        f"The engine has failed: {why}. It is not started again.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state. `at_seconds` is of the supervisor's clock."""

    at_seconds: float
    state: EngineState
    cause: Cause
    detail: str = ""
    exit_code: int | None = None
    """Of the process; negative: the signal that ended it."""
    restart_seconds: float | None = None
    """In BACKOFF: until another process is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long to wait for an engine, and how often to start one."""

    backoff_first_seconds: float = 1.0
    """Before the second start; doubled before each one after it."""
    backoff_most_seconds: float = 60.0
    max_failures: int = 5
    """Starts in a row that may fail. An engine that served for `stable_seconds` did not fail."""
    stable_seconds: float = 60.0
    ping_seconds: float = 1.0
    stall_seconds: float = 30.0
    progress_seconds: float = 120.0
    load_seconds: float = 1800.0
    stop_seconds: float = 5.0
    """How long a ready engine may take to leave by itself."""

    def backoff_seconds(self, failures: int) -> float:
        """Returns how long to wait after that many failures in a row, at least one."""
        doublings = min(failures - 1, 32)
        return min(self.backoff_first_seconds * 2.0**doublings, self.backoff_most_seconds)
