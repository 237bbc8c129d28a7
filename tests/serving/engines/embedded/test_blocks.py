from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.engines.embedded.blocks import RESERVED_BLOCKS, BlockPool, chain_hash, root_hash


def test_reserved_blocks_are_never_handed_out() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 3)
    assert sorted(pool.take() for _ in range(3)) == [2, 3, 4]
    with pytest.raises(IndexError, match="no block left"):
        pool.take()


def test_a_pool_of_reserved_blocks_only_is_refused() -> None:
    with pytest.raises(ValueError, match="leave none"):
        BlockPool(RESERVED_BLOCKS)


def test_a_released_block_is_found_until_it_is_taken() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 1)
    block = pool.take()
    pool.name(block, b"a")
    pool.release([block])
    assert pool.find(b"a") == block
    assert pool.available == 1
    assert pool.take() == block
    assert pool.find(b"a") is None


def test_the_least_recently_released_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 4)
    blocks = [pool.take() for _ in range(4)]
    for block, key in zip(blocks, (b"a", b"b", b"c", b"d"), strict=True):
        pool.name(block, key)
    pool.release(blocks[:2])
    pool.release(blocks[2:])
    assert [pool.take() for _ in range(4)] == [blocks[1], blocks[0], blocks[3], blocks[2]]


def test_of_two_blocks_with_equal_content_the_first_is_found() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 2)
    first, second = pool.take(), pool.take()
    pool.name(first, b"a")
    pool.name(second, b"a")
    pool.release([second])
    assert pool.find(b"a") == first
    assert pool.take() == second
    assert pool.find(b"a") == first


def test_releasing_what_nobody_owns_is_an_error() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 1)
    with pytest.raises(ValueError, match="no owner"):
        pool.release([2])


def test_discarded_blocks_are_not_found_again() -> None:
    pool = BlockPool(RESERVED_BLOCKS + 2)
    mine, ours = pool.take(), pool.take()
    pool.name(mine, b"a")
    pool.name(ours, b"b")
    pool.share(ours)
    assert pool.discard([mine, ours]) == [mine]
    assert pool.find(b"a") is None
    assert pool.find(b"b") is None
    pool.release([ours])
    assert pool.available == 2


def test_hashes_depend_on_salt_order_and_content() -> None:
    first, second = b"\1\0\0\0", b"\2\0\0\0"
    chains = {
        chain_hash(chain_hash(root_hash(salt), one), two)
        for salt in ("", "tenant")
        for one, two in ((first, second), (second, first), (first, first))
    }
    assert len(chains) == 6


class PoolMachine(RuleBasedStateMachine):
    """Any order of calls against a model that counts owners by hand."""

    BLOCKS = 5

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(RESERVED_BLOCKS + self.BLOCKS)
        self.owners: Counter[int] = Counter()
        self.content: dict[int, bytes] = {}

    def owned(self) -> list[int]:
        return sorted(block for block, count in self.owners.items() if count)

    @precondition(lambda self: self.pool.available > 0)
    @rule()
    def take(self) -> None:
        block = self.pool.take()
        assert self.owners[block] == 0
        assert block >= RESERVED_BLOCKS
        self.content.pop(block, None)
        self.owners[block] = 1

    @precondition(lambda self: self.owned())
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c"]))
    def name(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(self.owned()))
        if block not in self.content and key not in self.content.values():
            self.content[block] = key
        self.pool.name(block, key)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def share(self, key: bytes) -> None:
        block = self.pool.find(key)
        if block is not None:
            assert self.content[block] == key
            self.pool.share(block)
            self.owners[block] += 1

    @precondition(lambda self: self.owned())
    @rule(data=st.data(), forget=st.booleans())
    def release(self, data: st.DataObject, forget: bool) -> None:
        block = data.draw(st.sampled_from(self.owned()))
        self.owners[block] -= 1
        if forget:
            self.content.pop(block, None)
            freed = self.pool.discard([block])
            assert freed == ([block] if self.owners[block] == 0 else [])
        else:
            self.pool.release([block])

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.pool.used == len(self.owned())
        assert self.pool.used + self.pool.available == self.pool.total
        for key in (b"a", b"b", b"c"):
            held = [block for block, name in self.content.items() if name == key]
            assert self.pool.find(key) == (held[0] if held else None)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBlockPool = PoolMachine.TestCase
