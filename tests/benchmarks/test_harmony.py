"""The Harmony benchmark compares equal work."""

from __future__ import annotations

from collections.abc import Iterator

import openai_harmony as library
import pytest

from benchmarks import harmony
from serving.harmony.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def encoding() -> Iterator[library.HarmonyEncoding]:
    with harmony.theirs_loaded() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load(harmony.RANKS, memo_bytes=0)


def test_both_sides_render_the_same_prompt(
    vocabulary: Vocabulary, encoding: library.HarmonyEncoding
) -> None:
    times, tokens = harmony.rendering(2_000, vocabulary, encoding, repetitions=1)
    assert 2_000 < tokens < 3_000
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys(
        ("theirs", "theirs, from JSON", "cold", "remembered"), 1
    )
    assert len(harmony.render_rows(tokens, times)) == 3


def test_both_sides_parse_the_same_completion(
    vocabulary: Vocabulary, encoding: library.HarmonyEncoding
) -> None:
    times, tokens = harmony.parsing(200, vocabulary, encoding, repetitions=2)
    assert 250 < tokens < 300
    assert all(len(values) == 2 for values in times.values())
    assert len(harmony.parse_rows(tokens, times)) == 2


def test_work_is_done_in_turns() -> None:
    done: list[str] = []
    times = harmony.measure({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 2)
    assert done == ["a", "b", "a", "b"]
    assert all(len(values) == 2 for values in times.values())
