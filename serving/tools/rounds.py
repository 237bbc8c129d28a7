"""A job that may call built-in tools: generation and calls in turns, told as the events of one job.

Each round is a job of its own to the pipeline: it waits for a ticket and gives it back before the
executor is asked, so a tool that is slow holds no place in the engine's batch. A round after the
first comes before jobs that have not begun. Its prompt is the last one, what was generated, and the
tool's output, token for token: the engine finds all but the output in its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import msgspec

from serving.control.drain import Drain
from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError
from serving.events import (
    BuiltInCallEnded,
    BuiltInCallRunning,
    BuiltInCallStart,
    ChoiceEvent,
    Finished,
    FinishReason,
    ToolCallArguments,
    Usage,
)
from serving.generation.job import Job
from serving.generation.pipeline import Events
from serving.grammar.structural_tag import structural_tag
from serving.harmony.built_in import continuation
from serving.harmony.vocabulary import Vocabulary
from serving.tools.executors import Executors

ROUND_ROUTE: Final = "responses.round"
"""The route of the rounds after the first, which counts as the request."""

ANSWER_TOKENS: Final = 256
"""A tool's output is cut so that at least so many tokens of the context are left to answer in."""

FRAME_TOKENS: Final = 32
"""An upper bound of the tokens that frame a tool's output, with those of `LEFT_OUT`."""

LEFT_OUT: Final = "\n[The rest was left out: the context is full.]"

MOST_REFUSALS: Final = 2
"""How many calls beyond the allowed ones get `REFUSAL` as output. One more ends the response."""

REFUSAL: Final = "No more tool calls are allowed in this turn. Answer with what you have."

Run = Callable[[Job, float], Events]
"""Runs a job that was accepted at a time of the clock."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the rounds of one response may use together."""

    calls: int
    """Built-in calls that are made."""
    context_tokens: int
    """The longest that a prompt and what is generated may be."""
    seconds: float
    """From acceptance to the last token."""


class Rounds:
    """The rounds of one response. `clock` is that of the pipeline."""

    def __init__(
        self,
        job: Job,
        executors: Executors,
        allowance: Allowance,
        vocabulary: Vocabulary,
        run: Run,
        clock: Callable[[], float],
        drain: Drain,
    ) -> None:
        """`job` has one choice. A call ends with `drain`, as generation does."""
        self._job = job
        self._executors = executors
        self._allowance = allowance
        self._vocabulary = vocabulary
        self._run = run
        self._clock = clock
        self._drain = drain
        self._calls = 0
        self._refusals = 0
        self._usage = Usage(0, 0, 0, 0)

    async def events(self, accepted: float) -> Events:
        """Yields the events of all rounds; one `Finished`, the last, with the sum of their usage.

        A call that a round ends in is followed by `BuiltInCallRunning`, where it is made, and
        `BuiltInCallEnded`. Raises ServingError. The executors are closed at the end, however it
        comes.
        """
        job, started = self._job, accepted
        due = accepted + self._allowance.seconds
        try:
            while True:
                last = _Round()
                async with aclosing(self._run(job, started)) as running:
                    async for batch in running:
                        if events := last.take(batch):
                            yield events
                self._usage = _sum(self._usage, last.finished.usage)
                if not last.ends_in_call:
                    yield [(0, self._finished(last, last.finished.reason))]
                    return
                if self._calls < self._allowance.calls:
                    self._calls += 1
                    yield [(0, BuiltInCallRunning())]
                    ended = await self._call(last, due)
                else:
                    self._refusals += 1
                    ended = BuiltInCallEnded(REFUSAL, "refused")
                yield [(0, ended)]
                following = self._following(job, last, ended.output, due)
                if following is None:
                    yield [(0, self._finished(last, "length"))]
                    return
                job, started = following, self._clock()
        finally:
            self._executors.close()

    async def _call(self, last: _Round, due: float) -> BuiltInCallEnded:
        """Has the call made that a round ended in."""
        async with self._drain.bounded():
            output, outcome = await self._executors.call(
                last.call.name, last.text, max(0.0, due - self._clock())
            )
        return BuiltInCallEnded(output, outcome)

    def _following(self, job: Job, last: _Round, output: str, due: float) -> Job | None:
        """Returns the job of the next round; None when nothing more may be generated.

        Raises ServingError (DEADLINE) when it is too late for another.
        """
        generated = last.finished.tokens
        left_tokens = self._allowance.context_tokens - len(job.prompt) - len(generated)
        told = self._fitting(output, left_tokens - FRAME_TOKENS - ANSWER_TOKENS)
        if told is None or self._refusals > MOST_REFUSALS:
            return None
        prompt = job.prompt + continuation(generated, last.call, told, self._vocabulary)
        max_tokens = min(
            job.sampling.max_tokens - len(generated),
            self._allowance.context_tokens - len(prompt),
        )
        if max_tokens < 1:
            return None
        seconds = due - self._clock()
        if seconds <= 0:
            raise ServingError(
                ErrorKind.DEADLINE, "The built-in tools took the time that the response had."
            )
        return msgspec.structs.replace(
            job,
            prompt=prompt,
            sampling=msgspec.structs.replace(
                job.sampling,
                max_tokens=max_tokens,
                grammar=job.later_held and structural_tag(job.later_held),
            ),
            held=job.later_held,
            deadline_seconds=seconds,
            route=ROUND_ROUTE,
            begun=True,
            lane=Lane.P0,
        )

    def _fitting(self, output: str, tokens: int) -> str | None:
        """Returns as much of a tool's output as fits; None where nothing does."""
        encoded = self._vocabulary.encode(output)
        if len(encoded) <= tokens:
            return output
        return None if tokens <= 0 else self._vocabulary.decode(encoded[:tokens]) + LEFT_OUT

    def _finished(self, last: _Round, reason: FinishReason) -> Finished:
        return Finished(reason, self._usage, last.finished.stop_string)


class _Round:
    """One round as its events tell it: whether it ended in a call of a built-in tool, and which."""

    def __init__(self) -> None:
        self._call: BuiltInCallStart | None = None
        self._pieces: list[str] = []
        self._finished: Finished | None = None

    @property
    def finished(self) -> Finished:
        """The last event. Raises ValueError before it."""
        if self._finished is None:
            raise ValueError("the round has not finished")
        return self._finished

    @property
    def ends_in_call(self) -> bool:
        """Whether a built-in call is the last thing that was written, and whole."""
        return self._call is not None and self.finished.reason == "tool_calls"

    @property
    def call(self) -> BuiltInCallStart:
        """The call that the round ended in. Raises ValueError where there is none."""
        if self._call is None:
            raise ValueError("the round has not ended in a call")
        return self._call

    @property
    def text(self) -> str:
        """The body of the call."""
        return "".join(self._pieces)

    def take(self, batch: list[ChoiceEvent]) -> list[ChoiceEvent]:
        """Takes the next events, and returns those that are to be passed on: all but the last."""
        for _, event in batch:
            if isinstance(event, Finished):
                self._finished = event
            elif isinstance(event, BuiltInCallStart):
                self._call = event
                self._pieces.clear()
            elif isinstance(event, ToolCallArguments):
                self._pieces.append(event.text)
            else:
                self._call = None
        return batch if self._finished is None else batch[:-1]


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
    )
