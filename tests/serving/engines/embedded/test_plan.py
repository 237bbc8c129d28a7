from __future__ import annotations

from serving.engines.embedded.plan import bucket_blocks


def test_buckets_grow_by_a_third_or_a_half() -> None:
    buckets = sorted({bucket_blocks(blocks) for blocks in range(1, 100)})
    assert buckets == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


def test_a_bucket_holds_what_is_asked_and_little_more() -> None:
    for blocks in range(1, 10_000):
        assert blocks <= bucket_blocks(blocks) <= max(blocks * 1.5, blocks + 1)
