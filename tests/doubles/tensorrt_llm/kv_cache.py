"""Follows KV cache manager V2 and its scheduler, as far as a request can tell
(kv_cache_manager_v2.py and scheduler/scheduler_v2.py of the main branch, autumn 2026).

Sequences get blocks as they grow. When there is none left, the youngest that runs is set aside: to
the host's memory while there is room, else it is computed again. It resumes when there are blocks
for it, before any that has not begun. Two sequences never wait for each other for ever: the oldest
is set aside last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

BLOCK_TOKENS = 32
BLOCKS = 4096
BLOCK_BYTES = 36 * BLOCK_TOKENS * 1024
"""Of a rank of two, in fp8."""


@dataclass(slots=True)
class Cache:
    """The blocks of one engine. Sequences are named by their request's id."""

    blocks: int = BLOCKS
    host_blocks: int = 0
    suspended: dict[int, int] = field(default_factory=dict)
    """Sequences that are set aside, and the blocks that each needs to go on."""
    recomputed: int = 0
    """How often one was, without room for it in the host's memory."""
    _held: dict[int, int] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """Blocks of the GPU that sequences hold."""
        return sum(self._held.values())

    def schedule(self, wanted: Iterable[tuple[int, int]]) -> tuple[list[int], int]:
        """Returns which sequences run in this step, and how many were set aside for it.

        `wanted`: the id and the tokens of each sequence, oldest first.
        """
        needs = {one: -(-tokens // BLOCK_TOKENS) for one, tokens in wanted}
        running: list[int] = []
        paused = 0
        for one, blocks in needs.items():
            while self.used - self._held.get(one, 0) + blocks > self.blocks:
                younger = [other for other in self._held if other > one]
                if not younger:
                    break
                self._set_aside(max(younger))
                paused += 1
            if self.used - self._held.get(one, 0) + blocks > self.blocks:
                continue
            self.suspended.pop(one, None)
            self._held[one] = blocks
            running.append(one)
        return [one for one in running if one in self._held], paused

    def free(self, sequence: int) -> None:
        """Gives back what a sequence holds."""
        self._held.pop(sequence, None)
        self.suspended.pop(sequence, None)

    def _set_aside(self, sequence: int) -> None:
        blocks = self._held.pop(sequence)
        if sum(self.suspended.values()) + blocks > self.host_blocks:
            self.recomputed += 1
        self.suspended[sequence] = blocks


def of(arguments: dict[str, Any]) -> Cache:
    """Returns the cache of `LLM` arguments; without a size, one that nothing fills."""
    config = arguments.get("kv_cache_config") or {}
    tokens = config.get("max_tokens")
    return Cache(
        blocks=BLOCKS if tokens is None else tokens // BLOCK_TOKENS,
        host_blocks=(config.get("host_cache_size") or 0) // BLOCK_BYTES,
    )
