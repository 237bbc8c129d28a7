from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.engines.replay.prefixes import Prefixes


def test_only_whole_blocks_are_known_and_never_the_last_token() -> None:
    prefixes = Prefixes(block_tokens=4, max_blocks=100)
    assert prefixes.add(list(range(12)), "") == 0
    assert prefixes.add(list(range(12)), "") == 8
    assert prefixes.add(list(range(13)), "") == 8
    assert prefixes.add(list(range(13)), "") == 12


def test_a_block_is_known_only_after_the_same_beginning() -> None:
    prefixes = Prefixes(block_tokens=2, max_blocks=100)
    prefixes.add([1, 2, 3, 4, 5], "")
    assert prefixes.add([9, 9, 3, 4, 5], "") == 0


def test_tenants_share_nothing() -> None:
    prefixes = Prefixes(block_tokens=2, max_blocks=100)
    prefixes.add([1, 2, 3], "a")
    assert prefixes.add([1, 2, 3], "b") == 0


def test_the_oldest_blocks_are_forgotten_first() -> None:
    prefixes = Prefixes(block_tokens=2, max_blocks=2)
    prefixes.add([1, 1, 1], "")
    prefixes.add([2, 2, 2], "")
    prefixes.add([1, 1, 1], "")
    prefixes.add([3, 3, 3], "")
    assert prefixes.add([1, 1, 1], "") == 2
    assert prefixes.add([2, 2, 2], "") == 0


@given(
    st.lists(st.lists(st.integers(min_value=0, max_value=1), min_size=1, max_size=9), max_size=8)
)
def test_what_is_known_is_the_longest_common_beginning(prompts: list[list[int]]) -> None:
    prefixes = Prefixes(block_tokens=2, max_blocks=1000)
    seen: list[list[int]] = []
    for prompt in prompts:
        known = prefixes.add(prompt, "")
        common = max((shared(prompt, other) for other in seen), default=0)
        assert known == common
        seen.append(prompt)


def shared(prompt: list[int], other: list[int]) -> int:
    """Returns the length of the common beginning in whole blocks of 2, last tokens apart."""
    most = min((len(prompt) - 1) // 2, (len(other) - 1) // 2)
    return max(
        (2 * blocks for blocks in range(most + 1) if prompt[: 2 * blocks] == other[: 2 * blocks]),
        default=0,
    )
