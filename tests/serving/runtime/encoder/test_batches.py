"""Batches of texts: bounded, of like length, fair to the oldest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.encoder.batches import BatchQueue, Item


def lengths(batch: list[Item]) -> list[int]:
    return [item.length for item in batch]


def queue_of(*sizes: int, batch_tokens: int = 100) -> BatchQueue:
    queue = BatchQueue(batch_tokens)
    queue.add(1, [[0] * size for size in sizes], 8)
    return queue


def test_like_goes_with_like() -> None:
    queue = queue_of(50, 3, 49, 4, 48)
    assert lengths(queue.take()) == [49, 50]
    assert lengths(queue.take()) == [3, 4]
    assert lengths(queue.take()) == [48]
    assert not queue


def test_the_oldest_is_in_the_next_batch_whatever_comes_after_it() -> None:
    queue = queue_of(90)
    for request in range(2, 20):
        queue.add(request, [[0] * 5], 8)
    assert [item.request for item in queue.take()] == [1]


def test_what_is_longer_than_a_batch_is_one_alone() -> None:
    queue = queue_of(300, 299)
    assert lengths(queue.take()) == [300]
    assert lengths(queue.take()) == [299]


def test_a_request_that_is_dropped_leaves_the_others() -> None:
    queue = queue_of(5, 6)
    queue.add(2, [[0] * 5], 8)
    queue.drop(1)
    queue.drop(7)
    assert [item.request for item in queue.take()] == [2]
    assert not queue


@given(
    requests=st.lists(st.lists(st.integers(1, 130), min_size=1, max_size=12), max_size=6),
    batch_tokens=st.integers(1, 400),
)
def test_every_input_comes_once_and_no_batch_is_too_large(
    requests: list[list[int]], batch_tokens: int
) -> None:
    queue = BatchQueue(batch_tokens)
    for request, sizes in enumerate(requests):
        queue.add(request, [[0] * size for size in sizes], 8)
    seen: list[tuple[int, int]] = []
    oldest = -1
    while queue:
        batch = queue.take()
        assert len(batch) == 1 or max(lengths(batch)) * len(batch) <= batch_tokens
        ages = [item.age for item in batch]
        assert min(ages) > oldest
        oldest = min(ages)
        seen += [(item.request, item.place) for item in batch]
    expected = [(r, place) for r, sizes in enumerate(requests) for place in range(len(sizes))]
    assert sorted(seen) == expected
