"""One choice of a job: from the engine's outputs to events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from serving.boundary.messages import FaultKind, Logprob, Output
from serving.errors import ErrorKind, ServingError
from serving.events import (
    Content,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    TokenLogprob,
    Usage,
)
from serving.generation.held import HeldAnswer
from serving.generation.stopping import StopScanner
from serving.grammar.constraint import Constraint
from serving.harmony.vocabulary import ORDINARY_TOKENS

_FAULTS: dict[FaultKind, ErrorKind] = {
    "invalid": ErrorKind.INVALID_VALUE,
    "out_of_memory": ErrorKind.OUT_OF_MEMORY,
    "internal": ErrorKind.ENGINE_REQUEST,
}


class Decoder(Protocol):
    """Token ids to events: a Harmony parser, or plain text."""

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens were shown as reasoning."""
        ...

    @property
    def tool_calls(self) -> int:
        """How many calls have begun."""
        ...

    @property
    def recoveries(self) -> Mapping[str, int]:
        """What was malformed and mended: kind -> how often."""
        ...

    @property
    def content_open(self) -> bool:
        """True while the next ordinary token is part of the visible content."""
        ...

    def feed(self, tokens: Sequence[int]) -> list[Event]:
        """Returns the events that `tokens` complete."""
        ...

    def finish(self) -> list[Event]:
        """Returns the events of what was held back."""
        ...


class Choice:
    """Turns the outputs of one sequence into events, ending in exactly one `Finished`.

    `reason` is set with the `Finished`; after it nothing may be fed. The sequence may still run in
    the engine then: a stop string ends a choice, the engine knows nothing of it.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt: Sequence[int],
        stop: Sequence[str],
        *,
        logprobs: bool,
        keep_tokens: bool = False,
        held: Constraint | None = None,
    ) -> None:
        """With `keep_tokens` the last event holds everything that was generated.

        An answer that ends of itself and is not what it is `held` to is an error; so is a part of
        one. One that a stop string has cut counts as one that a limit has cut.
        """
        self.decoder = decoder
        self.reason: FinishReason | None = None
        self.completion_tokens = 0
        self.cached_tokens = 0
        self._prompt = prompt
        self._scored_tokens = 1  # the first has nothing before it
        self._scanner = StopScanner(stop) if stop else None
        self._aligner = LogprobAligner() if logprobs else None
        self._tokens: list[int] | None = [] if keep_tokens else None
        self._held = None if held is None else HeldAnswer(held)

    def feed(self, output: Output) -> list[Event]:
        """Returns the events of one output. Raises ServingError when the sequence failed."""
        tokens = output.tokens
        self.completion_tokens += len(tokens)
        if self._tokens is not None:
            self._tokens += tokens
        if output.cached_tokens:
            self.cached_tokens = output.cached_tokens
        if self._aligner is None:
            events = self.decoder.feed(tokens)
        else:
            events = self._feed_each(tokens, output.logprobs or [])
        if output.finish:
            if output.fault is not None or output.finish in ("error", "aborted"):
                raise _failure(output)
            events += self._attached(self.decoder.finish())
        cut = False
        if self._scanner is not None:
            events = self._scan(events, self._scanner)
            cut = self._scanner.matched
            if output.finish and not cut and (rest := self._scanner.flush()):
                events.append(self._content(rest))
        reason = "stop" if cut else self._natural_end(output)
        if self._held is not None:
            reason = self._judge(self._held, events, reason, cut=cut)
        if output.prompt_logprobs:
            events.insert(0, self._scored(output.prompt_logprobs))
        if reason is not None:
            self._end(events, reason)
        return events

    def _judge(
        self, held: HeldAnswer, events: list[Event], reason: FinishReason | None, *, cut: bool
    ) -> FinishReason | None:
        """Returns the reason that a held answer ends for. Raises ServingError for a broken one."""
        wrong = held.take(events)
        if not wrong and reason in ("stop", "tool_calls"):
            wrong = held.end()
            if wrong and cut:
                return "length"
        if wrong:
            raise ServingError(
                ErrorKind.INVALID_OUTPUT,
                f"The model's answer is not what the request holds it to: {wrong}. Try again.",
            )
        return reason

    def _scored(self, logprobs: Sequence[Logprob]) -> PromptLogprobs:
        first, self._scored_tokens = self._scored_tokens, self._scored_tokens + len(logprobs)
        tokens = self._prompt[first : self._scored_tokens]
        if len(tokens) != len(logprobs):
            raise ServingError(ErrorKind.ENGINE_REQUEST, "The engine gave too many of the prompt.")
        return PromptLogprobs(
            tuple(
                TokenLogprob(token, logprob.logprob, tuple(logprob.top))
                for token, logprob in zip(tokens, logprobs, strict=True)
            )
        )

    @property
    def ended(self) -> bool:
        """True once the last event was given out."""
        return self.reason is not None

    @property
    def usage(self) -> Usage:
        """The counts up to now."""
        return Usage(
            prompt_tokens=len(self._prompt),
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self.decoder.reasoning_tokens,
            cached_tokens=self.cached_tokens,
        )

    def _natural_end(self, output: Output) -> FinishReason | None:
        if not output.finish:
            return None
        if output.finish == "length":
            return "length"
        return "tool_calls" if self.decoder.tool_calls else "stop"

    def _end(self, events: list[Event], reason: FinishReason) -> None:
        self.reason = reason
        stop_string = None if self._scanner is None else self._scanner.match
        events.append(Finished(reason, self.usage, stop_string, tuple(self._tokens or ())))

    def _scan(self, events: list[Event], scanner: StopScanner) -> list[Event]:
        """Returns the events up to the first stop string in the visible content."""
        seen: list[Event] = []
        for event in events:
            if type(event) is Content:
                if self._aligner is not None:
                    self._aligner.hold(event)
                if text := scanner.feed(event.text):
                    seen.append(self._content(text))
                if scanner.matched:
                    return seen
            else:
                # A stop string does not reach over the border of a message.
                if text := scanner.flush():
                    seen.append(self._content(text))
                seen.append(event)
        return seen

    def _content(self, text: str) -> Content:
        return Content(text) if self._aligner is None else self._aligner.release(text)

    def _feed_each(self, tokens: Sequence[int], logprobs: Sequence[Logprob]) -> list[Event]:
        """Feeds token by token, so that each log-probability goes with the text of its token."""
        aligner = self._aligner
        if aligner is None or len(logprobs) != len(tokens):
            raise ServingError(ErrorKind.ENGINE_REQUEST, "The engine gave no log-probabilities.")
        events: list[Event] = []
        for token, logprob in zip(tokens, logprobs, strict=True):
            content = self.decoder.content_open and token < ORDINARY_TOKENS
            if content:
                aligner.add(TokenLogprob(token, logprob.logprob, tuple(logprob.top)))
            events += self._attached(self.decoder.feed([token]))
        return events

    def _attached(self, events: list[Event]) -> list[Event]:
        """Returns the events with the log-probabilities of their tokens."""
        if self._aligner is None:
            return events
        return [
            self._aligner.attach(event) if type(event) is Content else event for event in events
        ]


class LogprobAligner:
    """Keeps log-probabilities beside the text that they belong to.

    A character can need several tokens, and a stop scanner gives text out in other pieces than it
    took in: a token's entry goes with the first piece that holds some of its text.
    """

    def __init__(self) -> None:
        self._pending: list[TokenLogprob] = []
        self._held: list[tuple[int, tuple[TokenLogprob, ...]]] = []

    def add(self, logprob: TokenLogprob) -> None:
        """Takes the entry of a token whose text is to come."""
        self._pending.append(logprob)

    def attach(self, event: Content) -> Content:
        """Returns the event with the entries of the tokens since the last one."""
        entries, self._pending = tuple(self._pending), []
        return Content(event.text, entries)

    def hold(self, event: Content) -> None:
        """Takes text with its entries before it goes through a scanner."""
        self._held.append((len(event.text), event.logprobs or ()))

    def release(self, text: str) -> Content:
        """Returns the next `text` that came out of the scanner, with its entries."""
        entries: list[TokenLogprob] = []
        missing = len(text)
        while missing and self._held:
            length, logprobs = self._held.pop(0)
            entries += logprobs
            if length > missing:
                self._held.insert(0, (length - missing, ()))
            missing -= min(length, missing)
        return Content(text, tuple(entries))


def _failure(output: Output) -> ServingError:
    """Returns the error of a sequence that the engine ended."""
    if output.fault is None:
        return ServingError(ErrorKind.ENGINE_REQUEST, "The engine gave the request up.")
    retry = 5.0 if output.fault.kind == "out_of_memory" else None
    return ServingError(_FAULTS[output.fault.kind], output.fault.message, retry_after_seconds=retry)


def _joined(earlier: list[Logprob] | None, later: list[Logprob] | None) -> list[Logprob] | None:
    """Returns both; either is missing where an output had no tokens of that kind."""
    return earlier + later if earlier and later else earlier or later


def merge(batch: list[tuple[int, Output]]) -> list[tuple[int, Output]]:
    """Returns one output for each choice, for what arrived together: one event, one write."""
    merged: dict[int, Output] = {}
    for choice, output in batch:
        first = merged.get(choice)
        if first is None:
            merged[choice] = output
            continue
        merged[choice] = Output(
            output.id,
            first.tokens + output.tokens,
            output.finish,
            first.cached_tokens or output.cached_tokens,
            _joined(first.logprobs, output.logprobs),
            output.fault,
            _joined(first.prompt_logprobs, output.prompt_logprobs),
        )
    return list(merged.items())
