"""Runs the work of one step and owns the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from serving.boundary.engine import KvCache, Limits
from serving.boundary.messages import Fault
from serving.engines.embedded.blocks import RESERVED_BLOCKS
from serving.engines.embedded.cache import Cache
from serving.engines.embedded.capacity import Capacity, capacity
from serving.engines.embedded.forward_pass import Described, ForwardPass
from serving.engines.embedded.plan import Span
from serving.engines.embedded.scheduler import Work
from serving.engines.embedded.sequence import Sequence as Running

OpenPass = Callable[[int, int], ForwardPass]
"""Makes the forward pass with so many blocks in each full and in each sliding layer."""


@dataclass(frozen=True, slots=True)
class Done:
    """What ran. `logits` (sampled, vocab) has a row for each sequence of `sampled`, `scores` one
    for each (sequence, position) of `scored`; both are good until the next run."""

    work: list[Work]
    sampled: list[Running]
    logits: torch.Tensor
    scored: list[tuple[Running, int]]
    scores: torch.Tensor


class Executor:
    """One model with its cache."""

    def __init__(
        self, model: Described, open_pass: OpenPass, limits: Limits, kv_cache: KvCache
    ) -> None:
        self._model = model
        sizes: Capacity = capacity(model, limits, kv_cache)
        self.longest_tokens = sizes.full_blocks * kv_cache.block_tokens
        self.cache = Cache(
            sizes.full_blocks,
            sizes.sliding_blocks,
            kv_cache.block_tokens,
            model.config.sliding_window,
            reuse=kv_cache.block_reuse,
        )
        self._pass = open_pass(
            sizes.full_blocks + RESERVED_BLOCKS, sizes.sliding_blocks + RESERVED_BLOCKS
        )

    def run(self, work: Sequence[Work]) -> tuple[Done, list[tuple[Running, Fault]]]:
        """Computes the work. When that fails, each item is tried alone, so that only the
        sequences that cannot be computed are lost."""
        try:
            return self._run(work), []
        except (RuntimeError, MemoryError) as error:
            if len(work) == 1:
                return self._nothing(), [(work[0].sequence, fault(error))]
        parts = []
        for item in work:
            part, failed = self.run([item])
            kept = replace(part, logits=part.logits.clone(), scores=part.scores.clone())
            parts.append((kept, failed))
        done = Done(
            work=[item for part, _ in parts for item in part.work],
            sampled=[sequence for part, _ in parts for sequence in part.sampled],
            logits=torch.cat([part.logits for part, _ in parts]),
            scored=[place for part, _ in parts for place in part.scored],
            scores=torch.cat([part.scores for part, _ in parts]),
        )
        return done, [failure for _, failures in parts for failure in failures]

    def warm_up(self) -> None:
        """Runs on scratch blocks what the first request would otherwise wait for."""
        with torch.inference_mode():
            self._pass.warm_up()

    def clear(self, blocks: tuple[list[int], list[int]]) -> None:
        """Zeroes (full, sliding) blocks in every layer."""
        self._pass.clear(*blocks)

    def _run(self, work: Sequence[Work]) -> Done:
        if any(item.scores for item in work):
            return self._run_scored(work)
        order, logits = self._pass.run([span(item) for item in work])
        sampled = [work[index].sequence for index in order if work[index].samples]
        return Done(list(work), sampled, logits, [], logits[:0])

    def _run_scored(self, work: Sequence[Work]) -> Done:
        """As `_run`, with a span for each token that is to be scored: a span has one row of logits.

        The keys of all spans are written before any of them attends, so those of one sequence see
        each other.
        """
        spans: list[Span] = []
        owners: list[tuple[Work, int]] = []
        for item in work:
            whole = span(item)
            places = range(item.count) if item.scores else [item.count - 1]
            spans += [part(whole, place) for place in places] if item.scores else [whole]
            owners += [(item, item.sequence.computed + place) for place in places]
        order, logits = self._pass.run(spans)
        rows = [owners[index] for index in order if spans[index].samples]
        ends = [
            row
            for row, (item, position) in enumerate(rows)
            if item.samples and position == item.sequence.length - 1
        ]
        scored = [row for row, (item, _) in enumerate(rows) if item.scores]
        return Done(
            list(work),
            [rows[row][0].sequence for row in ends],
            logits[ends],
            [(rows[row][0].sequence, rows[row][1]) for row in scored],
            logits[scored],
        )

    def _nothing(self) -> Done:
        empty = torch.empty((0, self._model.config.vocab_size), dtype=self._model.dtype)
        empty = empty.to(self._model.device)
        return Done([], [], empty, [], empty)


def span(work: Work) -> Span:
    """Returns what the forward pass needs to know of a piece of work."""
    sequence = work.sequence
    return Span(
        tokens=sequence.span(work.count),
        start=sequence.computed,
        full_table=sequence.full_table,
        sliding_table=sequence.sliding_table,
        samples=work.samples,
        kept=sequence.kept_tokens,
    )


def part(whole: Span, place: int) -> Span:
    """Returns one token of a span, as a span that gives its logits."""
    tokens = whole.tokens[place : place + 1]
    return replace(whole, tokens=tokens, start=whole.start + place, samples=True)


def fault(error: Exception) -> Fault:
    """Returns what the client is told. The message of the exception stays here."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Fault("out_of_memory", "The engine ran out of memory.")
    if "memory" in str(error):  # the CPU allocator raises a plain RuntimeError
        return Fault("out_of_memory", "The engine ran out of memory.")
    return Fault("internal", "The engine could not compute this request.")
