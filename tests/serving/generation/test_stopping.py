"""Stop strings, however the text is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.generation.stopping import StopScanner


def scan(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    shown = ""
    for piece in pieces:
        shown += scanner.feed(piece)
        if scanner.matched:
            return shown, True
    return shown + scanner.flush(), False


def test_a_match_inside_one_piece_is_cut() -> None:
    assert scan(["one STOP two"], ["STOP"]) == ("one ", True)


def test_a_match_over_the_border_of_pieces_never_shows() -> None:
    assert scan(["one S", "T", "OP two"], ["STOP"]) == ("one ", True)


def test_what_only_began_like_a_stop_is_shown_as_soon_as_that_is_certain() -> None:
    scanner = StopScanner(["STOP"])
    assert scanner.feed("ST") == ""
    assert scanner.feed("AR") == "STAR"


def test_what_is_held_at_the_end_is_shown() -> None:
    assert scan(["one ST"], ["STOP"]) == ("one ST", False)


def test_the_first_of_several_matches_counts() -> None:
    assert scan(["a b c"], ["c", "b"]) == ("a ", True)


def test_a_match_that_is_complete_first_wins_over_one_that_began_before() -> None:
    assert scan(["xabz"], ["xabz", "ab"]) == ("x", True)


def test_a_repeating_beginning_does_not_hide_the_match() -> None:
    assert scan(["aa", "ab"], ["aab"]) == ("a", True)


def test_a_shorter_stop_inside_a_longer_one_wins_when_it_ends_first() -> None:
    assert scan(["x", "ab", "c"], ["xabz", "ab"]) == ("x", True)


@given(
    text=st.text("ab\n", max_size=40),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=10),
)
def test_the_cut_of_the_text_makes_no_difference(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(borders)]
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    if not ends:
        assert scan(pieces, stops) == (text, False)
        return
    seen = text[: ends[0]]
    longest = max(len(stop) for stop in stops if seen.endswith(stop))
    assert scan(pieces, stops) == (seen[: len(seen) - longest], True)
