"""What the next step computes: continuous batching with chunked prefill under a token budget.

Every running sequence that only waits for its next token gets one row; what is left of the budget
goes to prompts, in order of precedence, a chunk each. So a prompt of any length delays a running
stream by at most one step of `max_num_tokens` tokens.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

from serving.engines.embedded.cache import Cache
from serving.engines.embedded.sequence import Sequence

SCORED_TOKENS = 64
"""Of a prompt whose tokens are scored, in a step: each needs a row of logits, 400 KB."""


def _precedence(sequence: Sequence) -> tuple[float, int]:
    return sequence.precedence


@dataclass(frozen=True, slots=True)
class Work:
    """`count` tokens of a sequence to compute in this step, from `sequence.computed` on."""

    sequence: Sequence
    count: int

    @property
    def samples(self) -> bool:
        """True when the next token of the sequence follows from this step."""
        return self.count == self.sequence.remaining

    @property
    def scores(self) -> bool:
        """True when the logits of each of these tokens are wanted, to score the prompt by them."""
        return self.sequence.scoring


class Scheduler:
    """Owns the sequences that wait and run. Both lists are kept in order of precedence.

    The first of those that decode always advances, and where none decodes the first of all: a cache
    that holds one sequence of the greatest length is enough for every request to finish.
    """

    def __init__(
        self, cache: Cache, max_batch_size: int, max_num_tokens: int, chunk_multiple: int = 1
    ) -> None:
        """Chunks that do not end a prompt end at a multiple of `chunk_multiple` where they can."""
        self._cache = cache
        self._max_batch_size = max_batch_size
        self._max_num_tokens = max_num_tokens
        self._chunk_multiple = chunk_multiple
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def preempted(self) -> tuple[int, ...]:
        """The ids of sequences that ran and wait again, until there are blocks for them."""
        return tuple(one.id for one in self.waiting if one.cached_tokens is not None)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        insort(self.waiting, sequence, key=_precedence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence that waits or runs, and releases its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._cache.release(sequence)

    def schedule(self) -> list[Work]:
        """Returns the work of the next step, with blocks for all of it."""
        before = self.preemptions
        work = self._decodes()
        budget = self._max_num_tokens - len(work)
        budget -= self._prefills(work, budget)
        if self.preemptions == before:
            self._admit(work, budget)
        return work

    def _decodes(self) -> list[Work]:
        work: list[Work] = []
        for sequence in tuple(self.running):
            if len(work) == self._max_num_tokens:
                break
            # Preempting takes from the end of the list, so never from what has work already.
            if sequence.remaining == 1 and sequence in self.running and self._grow(sequence):
                work.append(Work(sequence, 1))
        return work

    def _grow(self, sequence: Sequence) -> bool:
        """Gets a block for one more token, from others if need be; False: it was preempted."""
        while not self._cache.extend(sequence, sequence.length):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _prefills(self, work: list[Work], budget: int) -> int:
        """Adds chunks for running prompts and returns how many tokens they take."""
        busy = {item.sequence.id for item in work}
        spent = 0
        for sequence in tuple(self.running):
            if spent == budget:
                break
            if sequence.id in busy or sequence not in self.running:
                continue
            count = self._chunk(sequence, budget - spent)
            while count == 0 and self.running[-1] is not sequence:
                if self.running[-1].id in busy:
                    break
                self._preempt(self.running[-1])
                count = self._chunk(sequence, budget - spent)
            if count:
                busy.add(sequence.id)
                work.append(Work(sequence, count))
                spent += count
        return spent

    def _admit(self, work: list[Work], budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self._max_batch_size:
            sequence = self.waiting[0]
            self._cache.reuse(sequence)
            # Without room for the whole prompt it would only be preempted later.
            roomy = self._cache.holds(sequence) or not self.running
            count = self._chunk(sequence, budget) if roomy else 0
            if count == 0:
                self._cache.release(sequence)
                return
            if sequence.cached_tokens is None:
                sequence.cached_tokens = sequence.computed
            self.waiting.pop(0)
            insort(self.running, sequence, key=_precedence)
            work.append(Work(sequence, count))
            budget -= count

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """Takes blocks for as much of the prompt as budget and cache allow; returns how much."""
        reach = self._cache.reach(sequence) - sequence.computed
        count = min(sequence.remaining, budget, reach)
        if sequence.scoring:
            count = min(count, SCORED_TOKENS)
        if count < sequence.remaining:
            aligned = (sequence.computed + count) // self._chunk_multiple * self._chunk_multiple
            count = max(aligned - sequence.computed, 0) or count
        if count <= 0 or not self._cache.extend(sequence, sequence.computed + count):
            return 0
        return count

    def _preempt(self, sequence: Sequence) -> None:
        """Takes the blocks of a running sequence; it will compute its tokens again."""
        self.running.remove(sequence)
        self._cache.release(sequence)
        insort(self.waiting, sequence, key=_precedence)
        self.preemptions += 1
