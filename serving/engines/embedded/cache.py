"""Which blocks belong to which sequence, in the full layers' pool and in the sliding layers'.

Full layers keep every block of a sequence. Sliding layers give a block back as soon as no later
token can see it, so a long sequence holds a window of them. Both name their blocks by the same
content hash: a prefix is reused when the full layers have all of it and the sliding layers have
the window before its end.
"""

from __future__ import annotations

from serving.engines.embedded.blocks import NULL_BLOCK, RESERVED_BLOCKS, BlockPool
from serving.engines.embedded.sequence import Sequence


class Cache:
    """The two pools, and what sequences hold of them."""

    def __init__(
        self,
        full_blocks: int,
        sliding_blocks: int,
        block_tokens: int,
        sliding_window: int,
        *,
        reuse: bool = True,
    ) -> None:
        self.full = BlockPool(full_blocks + RESERVED_BLOCKS)
        self.sliding = BlockPool(sliding_blocks + RESERVED_BLOCKS)
        self.block_tokens = block_tokens
        self._window = sliding_window
        self._reuse = reuse

    @property
    def used(self) -> int:
        """Blocks with an owner, of both pools."""
        return self.full.used + self.sliding.used

    @property
    def total(self) -> int:
        """Blocks of both pools."""
        return self.full.total + self.sliding.total

    def reuse(self, sequence: Sequence) -> None:
        """Gives a sequence that holds nothing the longest cached prefix.

        The last token is left to compute, even where its block is cached: its logits are wanted.
        Of a sequence whose prompt is scored, those of every token are.
        """
        if not self._reuse or sequence.scoring:
            return
        blocks = self._cached_prefix(sequence)
        for index in range(blocks):
            sequence.full_table[index] = self._share(self.full, sequence, index)
        sequence.kept_tokens = blocks * self.block_tokens
        sequence.computed = min(sequence.kept_tokens, sequence.length - 1)
        first = self._first_visible(sequence.computed)
        for index in range(first, blocks):
            sequence.sliding_table[index] = self._share(self.sliding, sequence, index)
        sequence.held_blocks = sequence.named_blocks = blocks
        sequence.first_sliding_block = first

    def reach(self, sequence: Sequence) -> int:
        """Returns how many tokens of the sequence could be computed with the blocks now free."""
        blocks = sequence.held_blocks + min(self.full.available, self.sliding.available)
        return blocks * self.block_tokens

    def holds(self, sequence: Sequence) -> bool:
        """True when the full layers have room for the sequence and its next token.

        The sliding layers need no such room: they take a long prompt one chunk at a time.
        """
        needed = sequence.length // self.block_tokens + 1
        return needed <= sequence.held_blocks + self.full.available

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Gives blocks for the first `tokens` tokens; False, and nothing given, when too few."""
        needed = -(-tokens // self.block_tokens)
        if tokens > self.reach(sequence):
            return False
        for index in range(sequence.held_blocks, needed):
            sequence.full_table[index] = self.full.take()
            sequence.sliding_table[index] = self.sliding.take()
        sequence.held_blocks = max(sequence.held_blocks, needed)
        return True

    def commit(self, sequence: Sequence) -> None:
        """After a step: names the blocks that are now whole, gives back what has slid out."""
        whole = sequence.computed // self.block_tokens
        if self._reuse:
            for index in range(sequence.named_blocks, whole):
                key = sequence.block_hash(index)
                self.full.name(int(sequence.full_table[index]), key)
                self.sliding.name(int(sequence.sliding_table[index]), key)
        sequence.named_blocks = whole
        first, visible = sequence.first_sliding_block, self._first_visible(sequence.computed)
        if visible > first:
            gone = sequence.sliding_table[first:visible]
            self.sliding.release(gone.tolist())
            gone[:] = NULL_BLOCK
            sequence.first_sliding_block = visible

    def release(self, sequence: Sequence) -> None:
        """Takes every block from the sequence; what they hold can be found again."""
        full, sliding = self._held(sequence)
        self.full.release(full)
        self.sliding.release(sliding)
        self._reset(sequence)

    def discard(self, sequence: Sequence) -> tuple[list[int], list[int]]:
        """As `release`, but the contents are forgotten. Returns (full, sliding) blocks to clear."""
        full, sliding = self._held(sequence)
        dirty = self.full.discard(full), self.sliding.discard(sliding)
        self._reset(sequence)
        return dirty

    def _cached_prefix(self, sequence: Sequence) -> int:
        """Returns the largest number of leading blocks that both kinds of layers can continue."""
        most = sequence.length // self.block_tokens
        best = run_start = 0
        for index in range(most):
            key = sequence.block_hash(index)
            if self.full.find(key) is None:
                break
            if self.sliding.find(key) is None:
                run_start = index + 1
                continue
            following = min((index + 1) * self.block_tokens, sequence.length - 1)
            if run_start <= self._first_visible(following):
                best = index + 1
        return best

    def _first_visible(self, position: int) -> int:
        """The first block that a token at `position` sees in a sliding layer."""
        return max(position - self._window + 1, 0) // self.block_tokens

    @staticmethod
    def _share(pool: BlockPool, sequence: Sequence, index: int) -> int:
        block = pool.find(sequence.block_hash(index))
        if block is None:
            raise LookupError("a cached block left the pool between finding and sharing it")
        pool.share(block)
        return block

    @staticmethod
    def _held(sequence: Sequence) -> tuple[list[int], list[int]]:
        full = sequence.full_table[: sequence.held_blocks].tolist()
        first = sequence.first_sliding_block
        return full, sequence.sliding_table[first : sequence.held_blocks].tolist()

    @staticmethod
    def _reset(sequence: Sequence) -> None:
        sequence.full_table[:] = NULL_BLOCK
        sequence.sliding_table[:] = NULL_BLOCK
        sequence.held_blocks = sequence.named_blocks = sequence.first_sliding_block = 0
        sequence.computed = sequence.kept_tokens = 0
