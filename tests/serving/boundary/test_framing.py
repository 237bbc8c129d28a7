from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.boundary.framing import MAX_FRAME_BYTES, FrameError, FrameReader, frame


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=20),
    cuts=st.lists(st.integers(min_value=0, max_value=7000), max_size=30),
)
def test_payloads_come_back_however_the_stream_is_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(map(frame, payloads))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader()
    received = [
        payload
        for start, end in itertools.pairwise(edges)
        for payload in reader.feed(stream[start:end])
    ]
    assert received == payloads


def test_single_bytes_are_enough() -> None:
    reader = FrameReader()
    received = [payload for byte in frame(b"abc") * 2 for payload in reader.feed(bytes([byte]))]
    assert received == [b"abc", b"abc"]


@given(st.binary(min_size=1, max_size=2000))
def test_noise_is_refused_or_waited_for_and_never_anything_else(noise: bytes) -> None:
    reader = FrameReader()
    try:
        payloads = reader.feed(noise)
    except FrameError:
        return
    assert sum(map(len, payloads)) < len(noise)


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_length_that_nobody_sends_is_refused_before_its_bytes_arrive(size: int) -> None:
    with pytest.raises(FrameError, match=str(size)):
        FrameReader().feed(size.to_bytes(4, "little"))


def test_a_length_that_nobody_sends_is_refused_after_part_of_it_was_kept() -> None:
    reader = FrameReader()
    assert reader.feed(b"\xff\xff") == []
    with pytest.raises(FrameError):
        reader.feed(b"\xff\xff")


def test_an_empty_message_cannot_be_sent() -> None:
    with pytest.raises(FrameError):
        frame(b"")


def test_a_large_message_in_small_pieces_is_put_together_once() -> None:
    payload = bytes(range(256)) * 4096
    stream = frame(payload)
    reader = FrameReader()
    received = [
        one
        for start in range(0, len(stream), 4096)
        for one in reader.feed(stream[start : start + 4096])
    ]
    assert received == [payload]
