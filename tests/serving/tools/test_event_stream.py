"""Server-sent events, wherever the pieces break."""

from __future__ import annotations

import pytest

from serving.tools.event_stream import EventData

STREAM = b": comment\n\nevent: message\nid: 1\ndata: one\n\ndata:two\ndata:  three\n\nretry: 5\n\n"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_data_of_events_does_not_depend_on_pieces_or_line_ends(
    line_end: bytes, size: int
) -> None:
    # The last line end could be the half of one: something follows.
    stream = STREAM.replace(b"\n", line_end) + b": more"
    events = EventData()
    found: list[bytes] = []
    for start in range(0, len(stream), size):
        found += events.feed(stream[start : start + size])
    assert found == [b"one", b"two\n three"]


def test_an_event_that_is_not_complete_is_none() -> None:
    events = EventData()
    assert events.feed(b"data: one\n") == []
    assert events.feed(b"\n") == [b"one"]
