"""Which prompts the replay runtime has seen: an imitation of a prefix cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class Prefixes:
    """Remembers whole blocks of prompts by the hash of all that leads to them, oldest out first."""

    def __init__(self, block_tokens: int, max_blocks: int) -> None:
        self._block_tokens = block_tokens
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def add(self, prompt: Sequence[int], salt: str) -> int:
        """Remembers a prompt; returns how many of its first tokens were known before.

        The last token is never known: a real engine computes it to have something to sample from.
        """
        known_tokens = 0
        all_known = True
        for index, chain in enumerate(self._chains(prompt, salt)):
            all_known = all_known and chain in self._blocks
            if all_known:
                known_tokens = (index + 1) * self._block_tokens
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)
        return known_tokens

    def _chains(self, prompt: Sequence[int], salt: str) -> Iterator[int]:
        size = self._block_tokens
        chain = hash(salt)
        for start in range(0, (len(prompt) - 1) // size * size, size):
            chain = hash((chain, tuple(prompt[start : start + size])))
            yield chain
