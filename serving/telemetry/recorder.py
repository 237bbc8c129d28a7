"""Where the end of every request goes: into the metrics and into the log, once."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from serving.telemetry.logs import log_record
from serving.telemetry.metrics import Metrics
from serving.telemetry.record import Record


class Recorder:
    """Counts and logs requests. `record` is called exactly once for each."""

    def __init__(self, metrics: Metrics, logger: FilteringBoundLogger) -> None:
        self.metrics = metrics
        self.logger = logger

    def record(self, record: Record) -> None:
        """Counts and logs one request that has ended."""
        self.metrics.record(record)
        log_record(self.logger, record)
