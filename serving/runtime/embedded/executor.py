"""Runs the work of one step and owns the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from serving.engine import KvCache, Limits
from serving.runtime.embedded.blocks import RESERVED_BLOCKS
from serving.runtime.embedded.cache import Cache
from serving.runtime.embedded.capacity import Capacity, capacity
from serving.runtime.embedded.forward_pass import Described, ForwardPass
from serving.runtime.embedded.plan import Span
from serving.runtime.embedded.scheduler import Work
from serving.runtime.embedded.sequence import Sequence as Running
from serving.runtime.messages import Fault

OpenPass = Callable[[int, int], ForwardPass]
"""Makes the forward pass with so many blocks in each full and in each sliding layer."""


@dataclass(frozen=True, slots=True)
class Done:
    """What ran. `logits` (sampled, vocab) has a row for each sequence of `sampled`, and is good
    until the next run."""

    work: list[Work]
    sampled: list[Running]
    logits: torch.Tensor


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
            parts.append((replace(part, logits=part.logits.clone()), failed))
        done = Done(
            work=[item for part, _ in parts for item in part.work],
            sampled=[sequence for part, _ in parts for sequence in part.sampled],
            logits=torch.cat([part.logits for part, _ in parts]),
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
        order, logits = self._pass.run([span(item) for item in work])
        sampled = [work[index].sequence for index in order if work[index].samples]
        return Done(list(work), sampled, logits)

    def _nothing(self) -> Done:
        empty = torch.empty((0, self._model.config.vocab_size), dtype=self._model.dtype)
        return Done([], [], empty.to(self._model.device))


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


def fault(error: Exception) -> Fault:
    """Returns what the client is told. The message of the exception stays here."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return Fault("out_of_memory", "The engine ran out of memory.")
    if "memory" in str(error):  # the CPU allocator raises a plain RuntimeError
        return Fault("out_of_memory", "The engine ran out of memory.")
    return Fault("internal", "The engine could not compute this request.")
