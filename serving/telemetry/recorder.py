"""Where the end of every request goes: into the metrics and into the log, once."""

from __future__ import annotations

from contextvars import ContextVar

from structlog.typing import FilteringBoundLogger

from serving.telemetry.logs import log_record
from serving.telemetry.metrics import Metrics
from serving.telemetry.record import Record, joined


class Gathering:
    """The records of one request's jobs, until it has ended."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.over = False


class Recorder:
    """Counts and logs requests. `record` is called exactly once for each job."""

    def __init__(self, metrics: Metrics, logger: FilteringBoundLogger) -> None:
        self.metrics = metrics
        self.logger = logger
        self._gathering: ContextVar[Gathering | None] = ContextVar("gathering", default=None)

    def gather(self) -> Gathering:
        """Returns what takes the records of this task, and of those that it starts, from now on."""
        gathering = Gathering()
        self._gathering.set(gathering)
        return gathering

    def record(self, record: Record) -> None:
        """Counts a job that has ended. Its request logs it, or it does where that has ended."""
        self.metrics.record(record)
        gathering = self._gathering.get()
        if gathering is None or gathering.over:
            log_record(self.logger, "background", record)
        else:
            gathering.records.append(record)

    def end(self, gathering: Gathering, request: Record, *, counted: bool) -> None:
        """Logs a request that has ended, and counts it unless a job has been `counted` for it."""
        gathering.over = True
        if not counted:
            self.metrics.record(request)
        log_record(self.logger, "request", joined(request, gathering.records))
