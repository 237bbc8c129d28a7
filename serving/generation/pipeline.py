"""Runs a job: the one place that acquires, opens, times, aborts, releases and records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import msgspec

from serving.boundary.contract import EngineHandle, SequenceStream
from serving.boundary.sampling import Sampling
from serving.control.admission import Admission, Ticket
from serving.control.drain import Drain, draining
from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError
from serving.events import ChoiceEvent
from serving.generation.choice import Choice, merge
from serving.generation.job import Job
from serving.generation.plain import PlainText
from serving.generation.watch import Watch, within
from serving.harmony.parse import Parser
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Deadlines, Draining
from serving.telemetry.record import Record

Events = AsyncGenerator[list[ChoiceEvent], None]

_PRIORITIES = {Lane.P0: 1.0, Lane.P1: 0.5, Lane.P2: 0.0}


class Recorder(Protocol):
    """Told of every job, once, when it has ended."""

    def record(self, record: Record) -> None:
        """Takes the record; must not raise."""
        ...


class Grammars(Protocol):
    """Finds out whether a grammar can be used."""

    async def require(self, grammar: str, param: str | None) -> None:
        """Returns when it can be. Raises ServingError, which names `param`, when it cannot."""
        ...


class Pipeline:
    """From a job to its events, for every protocol."""

    def __init__(
        self,
        engine: EngineHandle,
        vocabulary: Vocabulary,
        admission: Admission,
        deadlines: Deadlines,
        recorder: Recorder,
        clock: Callable[[], float],
        grammars: Grammars | None = None,
        drain: Drain | None = None,
    ) -> None:
        """Without `grammars` no job may have one. Jobs end with `drain`, where there is one."""
        self.engine = engine
        self.admission = admission
        self._vocabulary = vocabulary
        self._deadlines = deadlines
        self._recorder = recorder
        self._clock = clock
        self._grammars = grammars
        self.drain = drain or Drain(Draining())

    @property
    def constrains(self) -> bool:
        """True when the grammars of jobs can be checked before the engine gets them."""
        return self._grammars is not None

    async def run(self, job: Job, *, accepted: float | None = None) -> Events:
        """Yields the events of `job`, those that came together in one list, never an empty one.

        Every choice ends in one `Finished`. `accepted` is when the request came (by the clock),
        now if not given. Raises ServingError. Closing or cancelling the generator aborts the job;
        however it ends, the sequences are gone, the ticket is back and one record is written when
        it has ended.
        """
        started = self._clock() if accepted is None else accepted
        record = Record(
            id=job.id, route=job.route, lane=job.lane.name.lower(), tenant=job.caller.tenant,
            started=started, prompt_tokens=len(job.prompt), outcome="aborted",
            code=ErrorKind.CLIENT_CLOSED.value.code,
        )  # fmt: skip
        choices: list[Choice] = []
        resources = JobResources()
        try:
            watch, stream = await self._start(job, record, resources)
            choices += (self._choice(job) for _ in range(job.choices))
            unfinished = len(choices)
            while unfinished:
                batch = await watch.receive(stream)
                if any(output.tokens for _, output in batch):
                    record.last_token = self._clock()
                    if record.first_token is None:
                        record.first_token = record.last_token
                events: list[ChoiceEvent] = []
                for index, output in batch if len(batch) == 1 else merge(batch):
                    choice = choices[index]
                    if choice.ended:
                        continue
                    for event in choice.feed(output):
                        events.append((index, event))
                    if choice.reason is not None:
                        unfinished -= 1
                        if not output.finish:
                            stream.cancel(index)
                if not unfinished:
                    record.outcome, record.code = "ok", ""
                    resources.release()
                elif not batch:
                    raise ServingError(ErrorKind.ENGINE_REQUEST, "The engine gave the request up.")
                if events:
                    yield events
        except ServingError as error:
            record.outcome, record.code = "error", error.kind.value.code
            raise
        except Exception:
            record.outcome, record.code = "error", ErrorKind.INTERNAL.value.code
            raise
        finally:
            resources.release()
            self._settle(record, choices)

    async def _start(
        self, job: Job, record: Record, resources: JobResources
    ) -> tuple[Watch, SequenceStream]:
        """Waits for a ticket and gives the job to the engine; what it takes is in `resources`."""
        limits = self._deadlines
        total_seconds = min(limits.total_seconds, job.deadline_seconds or limits.total_seconds)
        due = record.started + total_seconds
        async with self.drain.bounded():
            if job.sampling.grammar is not None:
                if self._grammars is None:
                    raise ServingError(ErrorKind.UNSUPPORTED, "Answers cannot be constrained here.")
                async with within(due - self._clock()):
                    await self._grammars.require(job.sampling.grammar, job.grammar_param)
            queue_seconds = max(0.0, due - self._clock())
            if not job.begun:
                queue_seconds = min(limits.queue_seconds, queue_seconds)
            resources.ticket = await self.admission.acquire(
                job.lane, job.choices, queue_seconds, begun=job.begun
            )
        record.admitted = self._clock()
        resources.stream = self.engine.open(
            job.prompt,
            samplings(job),
            priority=_PRIORITIES[job.lane],
            cache_salt=job.caller.cache_salt,
        )
        watch = Watch(
            self._clock,
            due=due,
            first_token_seconds=limits.first_token_seconds,
            stall_seconds=limits.stall_seconds,
        )
        resources.watch = watch
        resources.leave = self.drain.enter(lambda: watch.interrupt(draining()))
        return watch, resources.stream

    def _choice(self, job: Job) -> Choice:
        decoder = (
            Parser(self._vocabulary, job.tools, job.built_in)
            if job.harmony
            else PlainText(self._vocabulary)
        )
        return Choice(
            decoder,
            job.prompt,
            job.stop,
            logprobs=job.sampling.logprobs is not None,
            keep_tokens=bool(job.built_in),
            held=job.held,
        )

    def _settle(self, record: Record, choices: list[Choice]) -> None:
        """Completes the record with the true counts and hands it on."""
        record.ended = self._clock()
        record.finish_reasons = tuple(c.reason for c in choices if c.reason is not None)
        record.completion_tokens = sum(c.completion_tokens for c in choices)
        record.reasoning_tokens = sum(c.decoder.reasoning_tokens for c in choices)
        record.cached_tokens = min((c.cached_tokens for c in choices), default=0)
        for choice in choices:
            for kind, count in choice.decoder.recoveries.items():
                record.recoveries[kind] = record.recoveries.get(kind, 0) + count
        self._recorder.record(record)


class JobResources:
    """What a running job has taken and must give back. `release` is idempotent."""

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.stream: SequenceStream | None = None
        self.watch: Watch | None = None
        self.leave: Callable[[], object] = lambda: None

    def release(self) -> None:
        """Aborts what still runs, then lets the next job in."""
        self.leave()
        if self.watch is not None:
            self.watch.close()
        if self.stream is not None:
            self.stream.close()
        if self.ticket is not None:
            self.ticket.release()


def samplings(job: Job) -> list[Sampling]:
    """Returns the sampling of each choice: equal but for the seed, which grows by one."""
    seed = job.sampling.seed
    if seed is None:
        return [job.sampling] * job.choices
    return [
        msgspec.structs.replace(job.sampling, seed=_wrapped(seed + choice))
        for choice in range(job.choices)
    ]


def _wrapped(seed: int) -> int:
    """Returns `seed` as a signed 64-bit number."""
    return (seed + 2**63) % 2**64 - 2**63
