from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.replay.playback import Playback, between, find
from serving.engines.replay.script import Repeat, Tokens

IDS = st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("after", "before", "part"),
    [
        ((), (), [1, 2, 3, 1, 2, 4]),
        ((1, 2), (), [4]),
        ((), (3,), [1, 2]),
        ((3,), (2,), [1]),
        ((2,), (3,), []),
        ((9,), (), []),
        ((1, 2, 3), (4,), [1, 2]),
    ],
)
def test_between_takes_what_follows_the_last_mark(
    after: tuple[int, ...], before: tuple[int, ...], part: list[int]
) -> None:
    assert list(between([1, 2, 3, 1, 2, 4], after, before)) == part


@given(tokens=IDS, part=IDS, start=st.integers(min_value=0, max_value=12))
def test_find_agrees_with_the_slow_way(tokens: list[int], part: list[int], start: int) -> None:
    places = [
        place for place in range(start, len(tokens)) if tokens[place : place + len(part)] == part
    ]
    assert find(tokens, part, start) == (places[0] if places else -1)


@given(
    ids=IDS,
    times=st.integers(min_value=1, max_value=4),
    limit=st.integers(min_value=1, max_value=30),
    stops=st.sets(st.integers(min_value=0, max_value=4), max_size=2),
    min_tokens=st.integers(min_value=0, max_value=20),
    per_step=st.integers(min_value=1, max_value=5),
)
def test_playing_agrees_with_generating_one_by_one(
    ids: list[int], times: int, limit: int, stops: set[int], min_tokens: int, per_step: int
) -> None:
    expected: list[int] = []
    end = "stop"
    for token in ids * times + ids:
        expected.append(token)
        if token in stops and len(expected) >= min_tokens:
            break
        if len(expected) == limit:
            end = "length"
            break
    sampling = Sampling(max_tokens=limit, stop_token_ids=tuple(stops), min_tokens=min_tokens)
    steps = (Repeat(ids=tuple(ids), times=times), Tokens(ids=tuple(ids)))
    playback = Playback(Generate(1, [1], sampling), steps, limit=limit, vocab_size=10)
    played: list[int] = []
    finish = ""
    while not finish:
        if playback.at >= playback.end:
            step = playback.next_step()
            assert isinstance(step, Repeat | Tokens)
            playback.begin(step)
        output = playback.take(per_step)
        assert 1 <= len(output.tokens) <= per_step
        played += output.tokens
        finish = output.finish
    assert (played, finish) == (expected, end)
