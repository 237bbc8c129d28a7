"""Gauges and counters, from the iterations that TensorRT-LLM reports and from what passed here.

Names of the fields as in tests of its metrics collector and in executor/iteration_stats.py at
b11790149e0e, in no release: `iter`, `numQueuedRequests`, `kvCacheStats`, `inflightBatchingStats`.
They are reported only with the LLM argument `enable_iter_perf_stats`. `numPausedRequests` is how
many sequences an iteration has set aside, to the host's memory or to be computed again
(pyexecutor/py_executor.py of the main branch, autumn 2026); which ones is not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.boundary.messages import Output, Stats


class Statistics:
    """What `Stats` tells. Used by one thread."""

    def __init__(self, blocks_total: int) -> None:
        self._blocks_total = blocks_total
        self._blocks_used = 0
        self._waiting = 0
        self._steps = 0
        self._iteration = -1
        self._ahead = 0
        """Steps counted by their outputs before their iteration was reported."""
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._preemptions = 0
        self._begun: dict[int, int] = {}
        """Sequences with an output, and how many had been set aside when the last one came."""

    def started(self, prompt_tokens: int) -> None:
        """Counts a sequence that was submitted."""
        self._prompt_tokens += prompt_tokens

    def stepped(self, outputs: list[Output]) -> None:
        """Counts the outputs of one engine step."""
        self._steps += 1
        self._ahead += 1
        for output in outputs:
            self._generated_tokens += len(output.tokens)
            self._cached_tokens += output.cached_tokens
            self._begun[output.id] = self._preemptions
            if output.finish:
                del self._begun[output.id]

    def ended(self, sequence_id: int) -> None:
        """Forgets a sequence that was aborted."""
        self._begun.pop(sequence_id, None)

    def report(self, iteration: Mapping[str, Any]) -> None:
        """Takes in what the executor says of one iteration."""
        number = int(iteration.get("iter", self._iteration + 1))
        reported = max(0, number - self._iteration)
        self._iteration = max(self._iteration, number)
        # No step is counted twice, and steps without outputs (prompt chunks) are counted too.
        self._steps += max(0, reported - self._ahead)
        self._ahead = max(0, self._ahead - reported)
        self._waiting = int(iteration.get("numQueuedRequests", 0))
        blocks = iteration.get("kvCacheStats") or {}
        self._blocks_used = int(blocks.get("usedNumBlocks", self._blocks_used))
        self._blocks_total = int(blocks.get("maxNumBlocks", 0)) or self._blocks_total
        batching = iteration.get("inflightBatchingStats") or {}
        self._preemptions += int(batching.get("numPausedRequests", 0))

    def stats(self, live: int) -> Stats:
        """Returns the statistics with `live` sequences queued or running.

        A sequence without an output since some were set aside is held to be one of them. One that
        was not is found out by its next output, and where none comes by the engine's standstill.
        """
        waiting = min(self._waiting, live)
        return Stats(
            running=live - waiting,
            waiting=waiting,
            # Reports end with the last iteration, so idle means that no sequence holds a block.
            blocks_used=self._blocks_used if live else 0,
            blocks_total=self._blocks_total,
            steps_total=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            generated_tokens_total=self._generated_tokens,
            preemptions_total=self._preemptions,
            suspended=tuple(
                sequence_id
                for sequence_id, before in self._begun.items()
                if before < self._preemptions
            ),
        )
