"""The log: lines of JSON on standard error, one for each request that has ended.

What libraries and Python itself have to say becomes such lines too, once `take_over` was called.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Protocol, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from serving.telemetry.record import Record

_PROCESSORS = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def make_logger(level: str, file: TextIO | None = None) -> FilteringBoundLogger:
    """Returns a logger that writes JSON lines to `file`, standard error unless told otherwise."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(file or sys.stderr),  # a line in one write: others write there too
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        processors=[*_PROCESSORS, _encode],
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return logger


def take_over(level: str, file: TextIO | None = None) -> None:
    """Makes everything that this process logs a line of JSON: what loggers were told until now and
    will be told, warnings, and exceptions that nobody catches. Their levels stay, `level` on top.
    """
    handler = logging.StreamHandler(file or sys.stderr)
    handler.setLevel(level.upper())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(allow=["client", "request_id"]),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_PROCESSORS,
                _encode,
            ],
        )
    )
    root = logging.getLogger()
    for logger in (root, *root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
    root.addHandler(handler)
    # A line a request without its outcome; without a handler uvicorn does not even make them.
    logging.getLogger("uvicorn.access").propagate = False
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_told
    sys.unraisablehook = _log_told


class _Told(Protocol):
    """What the hooks of threads and of finalizers are given."""

    @property
    def exc_type(self) -> type[BaseException]: ...

    @property
    def exc_value(self) -> BaseException | None: ...

    @property
    def exc_traceback(self) -> TracebackType | None: ...


def _log_told(told: _Told) -> None:
    _log_uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    if error is None or not issubclass(kind, Exception):
        sys.__excepthook__(kind, error or kind(), traceback)
    else:
        logging.getLogger("python").critical(
            "an exception that nobody catches", exc_info=(kind, error, traceback)
        )


def log_record(logger: FilteringBoundLogger, event: str, record: Record) -> None:
    """Writes the one line of a request, or of a job that nobody waits for."""
    line = {
        "request_id": record.id,
        "client": record.client,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "bytes_received": record.bytes_received,
        "bytes_sent": record.bytes_sent,
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
    logger.info(event, **line)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _encode(logger: object, method: str, event: EventDict) -> str:
    """The last processor: the event as one line of JSON."""
    return msgspec.json.encode(event, enc_hook=repr).decode()
