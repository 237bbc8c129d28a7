"""What is known of one request when it has ended: the source of its metrics and its log line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Outcome = Literal["ok", "error", "aborted"]
Phase = Literal["queue", "prefill", "decode"]


class Record(msgspec.Struct, kw_only=True):
    """One request. Times are seconds of the monotonic clock; None: it did not get that far.

    Holds no text of the client and none of the model.
    """

    id: str
    route: str
    lane: str = ""
    tenant: str = ""
    outcome: Outcome = "ok"
    code: str = ""
    """OpenAI's error code, or "" when there was no error."""
    finish_reasons: tuple[str, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    started: float = 0.0
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    ended: float = 0.0
    recoveries: dict[str, int] = {}
    """Malformed Harmony that the parser put right: kind -> how often."""
    client: str | None = None
    """The address of the client; None on a Unix socket."""
    method: str | None = None
    """None for one of many requests on a WebSocket."""
    status: int | None = None
    """None where no response was begun."""
    bytes_received: int = 0
    """Of the body or the messages, as `bytes_sent`."""
    bytes_sent: int = 0

    @property
    def phase(self) -> Phase:
        """How far the request had come."""
        if self.admitted is None:
            return "queue"
        return "prefill" if self.first_token is None else "decode"

    @property
    def queue_seconds(self) -> float | None:
        """Time in line, or None when it never left the line."""
        return None if self.admitted is None else self.admitted - self.started

    @property
    def first_token_seconds(self) -> float | None:
        """Time from acceptance to the first token."""
        return None if self.first_token is None else self.first_token - self.started

    @property
    def total_seconds(self) -> float:
        """Time from acceptance to the end."""
        return self.ended - self.started

    @property
    def seconds_per_token(self) -> float | None:
        """Mean time between tokens after the first, or None for fewer than two tokens."""
        if self.first_token is None or self.last_token is None or self.completion_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.completion_tokens - 1)


def joined(request: Record, jobs: Sequence[Record]) -> Record:
    """Returns the record of a request with what its jobs came to; times are of the first."""
    if not jobs:
        return request
    first, alone = jobs[0], len(jobs) == 1
    failed = next((job for job in jobs if job.outcome != "ok"), first)
    ended = request if request.outcome != "ok" else failed
    return msgspec.structs.replace(
        request,
        lane=first.lane,
        tenant=first.tenant,
        outcome=ended.outcome,
        code=ended.code,
        finish_reasons=tuple(reason for job in jobs for reason in job.finish_reasons),
        prompt_tokens=sum(job.prompt_tokens for job in jobs),
        cached_tokens=sum(job.cached_tokens for job in jobs),
        completion_tokens=sum(job.completion_tokens for job in jobs),
        reasoning_tokens=sum(job.reasoning_tokens for job in jobs),
        admitted=first.admitted,
        first_token=first.first_token,
        last_token=first.last_token if alone else None,
    )
