"""A pool of cache blocks: counted owners, reuse by content hash, least recently used first out."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

# Block 0 is never written and reads as zeros; block 1 takes the writes of padding rows.
NULL_BLOCK = 0
TRASH_BLOCK = 1
RESERVED_BLOCKS = 2

HASH_BYTES = 16


def root_hash(salt: str) -> bytes:
    """Returns what the hash chain of every sequence with this salt starts from."""
    return hashlib.blake2b(salt.encode(), digest_size=HASH_BYTES).digest()


def chain_hash(previous: bytes, tokens: bytes) -> bytes:
    """Returns the hash of a block and of all before it.

    With 128 bits two different prefixes do not meet by chance, and the salt in the root keeps one
    tenant from finding out another's prefixes.
    """
    return hashlib.blake2b(previous + tokens, digest_size=HASH_BYTES).digest()


class BlockPool:
    """Hands out block numbers. A block is owned, or cached (no owner, contents kept), or free."""

    def __init__(self, blocks: int) -> None:
        """`blocks` counts the reserved ones. Raises ValueError when none would be left."""
        if blocks <= RESERVED_BLOCKS:
            raise ValueError(f"{blocks} blocks leave none to hand out")
        self._owners = [0] * blocks
        self._hash: list[bytes | None] = [None] * blocks
        self._by_hash: dict[bytes, int] = {}
        self._free = list(range(blocks - 1, RESERVED_BLOCKS - 1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def total(self) -> int:
        """Blocks that can be owned."""
        return len(self._owners) - RESERVED_BLOCKS

    @property
    def available(self) -> int:
        """Blocks without an owner, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks with an owner."""
        return self.total - self.available

    def take(self) -> int:
        """Returns a block with one owner and no contents to speak of.

        The caller has checked `available`: without a block this raises IndexError.
        """
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        else:
            raise IndexError("the pool has no block left")
        self._owners[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        """Returns the block with this content, or None. The block may be evicted by a `take`."""
        return self._by_hash.get(key)

    def share(self, block: int) -> None:
        """Adds an owner to a block that `find` returned."""
        self._cached.pop(block, None)
        self._owners[block] += 1

    def name(self, block: int, key: bytes) -> None:
        """Records what an owned block holds. The first block of two with equal content is kept."""
        if self._hash[block] is None and key not in self._by_hash:
            self._hash[block] = key
            self._by_hash[key] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one owner from each. Named blocks stay cached; the first given goes out last."""
        for block in reversed(blocks):
            if self._owners[block] <= 0:
                raise ValueError(f"block {block} has no owner")
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if self._hash[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def discard(self, blocks: Sequence[int]) -> list[int]:
        """Releases blocks, forgets what they held, and returns those that are now free."""
        for block in blocks:
            self._forget(block)
        self.release(blocks)
        return [block for block in blocks if self._owners[block] == 0]

    def _forget(self, block: int) -> None:
        key = self._hash[block]
        if key is not None:
            del self._by_hash[key]
            self._hash[block] = None
