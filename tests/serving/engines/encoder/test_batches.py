"""Batches of texts: bounded, of like length, fair to every request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.engines.encoder.batches import BatchQueue, Item


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


def test_a_small_request_does_not_wait_for_large_ones_that_came_before() -> None:
    queue = queue_of(*[50] * 40)
    for request in range(2, 20):
        queue.add(request, [[0] * 50] * 40, 8)
    queue.take()
    queue.add(20, [[0] * 5], 8)
    assert 20 in [item.request for item in queue.take()]


def test_large_requests_have_equal_shares() -> None:
    queue = queue_of(*[90] * 10)
    queue.add(2, [[0] * 90] * 10, 8)
    assert sorted(item.request for _ in range(10) for item in queue.take()) == [1] * 5 + [2] * 5


def test_a_large_request_does_not_wait_for_ever_while_small_ones_come() -> None:
    queue = queue_of(90)
    taken: list[int] = []
    for request in range(2, 100):
        queue.add(request, [[0] * 60], 8)
        taken += [item.request for item in queue.take()]
    assert 1 in taken[:3]


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
    while queue:
        batch = queue.take()
        assert len(batch) == 1 or max(lengths(batch)) * len(batch) <= batch_tokens
        seen += [(item.request, item.place) for item in batch]
    expected = [(r, place) for r, sizes in enumerate(requests) for place in range(len(sizes))]
    assert sorted(seen) == expected
