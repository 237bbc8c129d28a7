"""One sequence of the replay runtime: which token comes next, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.boundary.messages import Finish, Generate, Logprob, Output
from serving.engines.replay.script import Echo, Garbage, Repeat, ScriptStep, Tokens

_FOR_EVER = 1 << 40
_GARBAGE_ID = 0


class Playback:
    """Plays the token steps of a scenario; every other kind of step is the runtime's to act on.

    `at < end` while the present step has tokens left. `limit` is the most tokens the sequence may
    have, `resume_at` the time (of the runtime's clock) before which it gets nothing, and
    `suspended_until` the one until which that is for want of memory.
    """

    __slots__ = (
        "_finish",
        "_ids",
        "_next_step",
        "_steps",
        "_stops",
        "_vocab_size",
        "abort_seconds",
        "at",
        "cached_tokens",
        "end",
        "generated",
        "id",
        "limit",
        "request",
        "resume_at",
        "suspended_until",
    )

    def __init__(
        self, request: Generate, steps: tuple[ScriptStep, ...], *, limit: int, vocab_size: int
    ) -> None:
        self.id = request.id
        self.request = request
        self.limit = limit
        self.generated = 0
        self.cached_tokens = 0
        self.resume_at = -math.inf
        self.suspended_until = -math.inf
        self.abort_seconds = 0.0
        self.at = 0
        self.end = 0
        self._steps = steps
        self._next_step = 0
        self._ids: Sequence[int] = ()
        self._finish: Finish = ""
        self._vocab_size = vocab_size
        sampling = request.sampling
        self._stops = frozenset(() if sampling.ignore_eos else sampling.stop_token_ids)

    def next_step(self) -> ScriptStep | None:
        """Returns the step that follows, or None when the script is over."""
        if self._next_step >= len(self._steps):
            return None
        step = self._steps[self._next_step]
        self._next_step += 1
        return step

    def begin(self, step: Tokens | Repeat | Echo | Garbage) -> None:
        """Makes the tokens of a step the present ones."""
        ids, total = self._tokens_of(step)
        self._ids = ids
        self.at = 0
        self.end, self._finish = self._cut(ids, total)
        if not self._finish and self._next_step >= len(self._steps):
            self._finish = "stop"

    def take(self, count: int) -> Output:
        """Returns the next output, of at most `count` tokens. There must be one: `at < end`."""
        ids, at = self._ids, self.at
        size = len(ids)
        if count == 1:
            tokens = [ids[at % size]]
        else:
            count = min(count, self.end - at)
            tokens = [ids[index % size] for index in range(at, at + count)]
        self.at = at + count
        self.generated += count
        cached_tokens, self.cached_tokens = self.cached_tokens, 0
        alternatives = self.request.sampling.logprobs
        first = self.generated == len(tokens)
        return Output(
            self.id,
            tokens,
            self._finish if self.at >= self.end else "",
            cached_tokens,
            None
            if alternatives is None
            else [logprob(token, alternatives, self._vocab_size) for token in tokens],
            prompt_logprobs=self._of_prompt() if first else None,
        )

    def _of_prompt(self) -> list[Logprob] | None:
        alternatives = self.request.sampling.prompt_logprobs
        if alternatives is None:
            return None
        return [logprob(one, alternatives, self._vocab_size) for one in self.request.prompt[1:]]

    def _tokens_of(self, step: Tokens | Repeat | Echo | Garbage) -> tuple[Sequence[int], int]:
        """Returns ids, and how many tokens they make when they go round."""
        match step:
            case Tokens():
                return step.ids, len(step.ids)
            case Repeat():
                return step.ids, _FOR_EVER if step.times is None else step.times * len(step.ids)
            case Echo():
                part = between(self.request.prompt, step.after, step.before)
                return part, len(part)
            case Garbage():
                wrong = self._vocab_size if step.kind == "out_of_range" else _GARBAGE_ID
                return (wrong,), step.times

    def _cut(self, ids: Sequence[int], total: int) -> tuple[int, Finish]:
        """Returns how many tokens the step gives, and how the sequence ends with the last one."""
        end = min(total, self.limit - self.generated)
        first = max(0, self.request.sampling.min_tokens - self.generated - 1)
        if self._stops and not self._stops.isdisjoint(ids):
            for index in range(first, min(end, first + len(ids))):
                if ids[index % len(ids)] in self._stops:
                    return index + 1, "stop"
        return end, "length" if self.generated + end >= self.limit else ""


def logprob(token: int, alternatives: int, vocab_size: int) -> Logprob:
    """Returns a well-formed invention: the sampled token has 1/2, the next ids 1/4, 1/8 ..."""
    top = [((token + rank) % vocab_size, -(rank + 1) * math.log(2)) for rank in range(alternatives)]
    return Logprob(-math.log(2), top)


def find(tokens: Sequence[int], part: Sequence[int], start: int = 0) -> int:
    """Returns where `part` first occurs in `tokens` from `start` on, or -1. Not for empty parts."""
    wanted = list(part)
    while True:
        try:
            start = tokens.index(wanted[0], start)
        except ValueError:
            return -1
        if list(tokens[start : start + len(wanted)]) == wanted:
            return start
        start += 1


def between(tokens: Sequence[int], after: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    """Returns what follows the last `after`, up to the next `before`. Empty when either lacks."""
    start = 0
    if after:
        start, found = -1, find(tokens, after)
        while found >= 0:
            start, found = found + len(after), find(tokens, after, found + 1)
        if start < 0:
            return ()
    end = find(tokens, before, start) if before else len(tokens)
    return tokens[start:end] if end >= 0 else ()
