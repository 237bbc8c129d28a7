"""The log: lines of JSON on standard error, one for each request that has ended."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from serving.telemetry.record import Record


def make_logger(level: str, file: TextIO | None = None) -> FilteringBoundLogger:
    """Returns a logger that writes JSON lines to `file`, standard error unless told otherwise."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(file or sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _encode,
        ],
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger


def log_record(logger: FilteringBoundLogger, record: Record) -> None:
    """Writes the one line of a request."""
    line = {
        "request_id": record.id,
        "route": record.route,
        "lane": record.lane,
        "tenant": record.tenant,
        "outcome": record.outcome,
        "code": record.code,
        "finish_reasons": list(record.finish_reasons),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "queue_seconds": _rounded(record.queue_seconds),
        "first_token_seconds": _rounded(record.first_token_seconds),
        "seconds_per_token": _rounded(record.seconds_per_token),
        "total_seconds": _rounded(record.total_seconds),
    }
    if record.outcome == "aborted":
        line["abort_phase"] = record.phase
    logger.info("request", **line)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _encode(logger: object, method: str, event: EventDict) -> str:
    """The last processor: the event as one line of JSON."""
    return msgspec.json.encode(event, enc_hook=repr).decode()
