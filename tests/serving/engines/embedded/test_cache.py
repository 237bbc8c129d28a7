from __future__ import annotations

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.cache import Cache
from serving.engines.embedded.sequence import Sequence

BLOCK = 4
WINDOW = 8


def cache(blocks: int = 32, sliding: int = 32, *, reuse: bool = True) -> Cache:
    return Cache(blocks, sliding, BLOCK, WINDOW, reuse=reuse)


def sequence(prompt: list[int], *, salt: str = "") -> Sequence:
    request = Generate(0, prompt, Sampling(max_tokens=50), cache_salt=salt)
    return Sequence(request, 0, 1000, BLOCK)


def compute(pools: Cache, made: Sequence, tokens: int) -> None:
    """What the engine does for a chunk that ends at `tokens`."""
    assert pools.extend(made, tokens)
    made.computed = tokens
    pools.commit(made)


def test_sliding_layers_hold_a_window_and_full_layers_everything() -> None:
    pools = cache()
    made = sequence(list(range(40)))
    for end in range(1, 41):
        compute(pools, made, end)
        # The next token sees WINDOW - 1 tokens before it: at most so many blocks.
        assert pools.sliding.used <= WINDOW // BLOCK + 1
    assert pools.full.used == 10
    visible = range((40 - WINDOW + 1) // BLOCK, 10)
    held = [index for index, block in enumerate(made.sliding_table.tolist()) if block]
    assert held == list(visible)


def test_a_long_chunk_gives_its_blocks_back_after_the_step() -> None:
    pools = cache()
    made = sequence(list(range(40)))
    assert pools.extend(made, 40)
    assert pools.sliding.used == 10
    made.computed = 40
    pools.commit(made)
    assert pools.sliding.used == 2


def test_release_returns_every_block() -> None:
    pools = cache()
    made = sequence(list(range(30)))
    compute(pools, made, 30)
    pools.release(made)
    assert pools.used == 0
    assert made.computed == 0
    assert not made.full_table.any()
    assert not made.sliding_table.any()


def test_an_equal_prompt_reuses_every_block_and_computes_its_last_token() -> None:
    pools = cache()
    first = sequence(list(range(16)))
    compute(pools, first, 16)
    second = sequence(list(range(16)))
    pools.reuse(second)
    assert (second.computed, second.kept_tokens) == (15, 16)
    assert second.full_table[:4].tolist() == first.full_table[:4].tolist()
    # No block is taken for the token: it is in a shared one.
    assert pools.extend(second, 16)
    assert pools.full.used == 4
    third = sequence(list(range(18)))
    pools.reuse(third)
    assert (third.computed, third.kept_tokens) == (16, 16)


def test_a_longer_prompt_reuses_the_common_blocks() -> None:
    pools = cache()
    first = sequence([*range(16), 99, 98])
    compute(pools, first, 18)
    pools.release(first)
    second = sequence([*range(16), 1, 2, 3])
    pools.reuse(second)
    assert second.computed == 16
    third = sequence([*range(6), 1, 2, 3])
    pools.reuse(third)
    assert third.computed == 4


def test_salts_do_not_share() -> None:
    pools = cache()
    first = sequence(list(range(16)), salt="one")
    compute(pools, first, 16)
    second = sequence(list(range(16)), salt="other")
    pools.reuse(second)
    assert second.computed == 0


def test_without_reuse_nothing_is_found() -> None:
    pools = cache(reuse=False)
    first = sequence(list(range(16)))
    compute(pools, first, 16)
    pools.release(first)
    second = sequence(list(range(16)))
    pools.reuse(second)
    assert second.computed == 0


def test_a_prefix_counts_only_as_far_as_the_sliding_layers_still_know_its_window() -> None:
    pools = cache(sliding=8)
    first = sequence(list(range(32)))
    for end in range(BLOCK, 33, BLOCK):
        compute(pools, first, end)
    pools.release(first)
    # Three blocks of the sliding pool go to others: the least recently used, those of the start.
    other = sequence(list(range(100, 112)))
    compute(pools, other, 12)
    whole = sequence(list(range(33)))
    pools.reuse(whole)
    assert whole.computed == 32
    pools.release(whole)
    early = sequence([*range(12), 77, 78])
    pools.reuse(early)
    assert early.computed == 0


def test_extend_takes_all_or_nothing() -> None:
    pools = cache(blocks=4)
    made = sequence(list(range(30)))
    assert not pools.extend(made, 17)
    assert pools.used == 0
    assert pools.extend(made, 16)
    assert pools.full.used == 4


def test_discarded_content_is_not_found_again() -> None:
    pools = cache()
    first = sequence(list(range(16)))
    compute(pools, first, 16)
    held = first.full_table[:4].tolist()
    full, _ = pools.discard(first)
    assert sorted(full) == sorted(held)
    second = sequence(list(range(16)))
    pools.reuse(second)
    assert second.computed == 0
    assert pools.used == 0
