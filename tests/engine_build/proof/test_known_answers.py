"""Questions with known answers: what they are, and what the gate makes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from engine_build.failure import BuildError
from engine_build.fetch import RANKS
from engine_build.proof import gate, known_answers
from engine_build.proof.probe import Answer, Question
from serving.boundary import engine
from serving.harmony.vocabulary import RETURN, Vocabulary
from tests.engine_build.proof.pretended import WHOLE, Pretended, run, short_gate
from tests.engine_build.scene import Scene


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return short_gate(tmp_path, monkeypatch)


@pytest.mark.parametrize(("right", "passed"), [(100, True), (98, True), (97, False)])
def test_known_answers_that_are_lost_refuse_an_engine(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, right: int, passed: bool
) -> None:
    """Of 100 tokens of known answers the reference gives all; equal tokens alone would pass."""
    places = [known_answers.KnownToken((9, index), 7) for index in range(100)]
    monkeypatch.setattr(known_answers, "known_tokens", lambda _ranks: places)

    def ask(directory: Path, wanted: Sequence[Question]) -> list[Answer]:
        whole = engine.read(directory).precision.activations == WHOLE
        wrong = {(9, index) for index in range(right, 100)}
        return [
            Answer((8 if one.prompt in wrong and not whole else 7,) * one.max_tokens)
            for one in wanted
        ]

    pretended = Pretended({})
    monkeypatch.setattr(pretended, "ask", ask)
    if not passed:
        with pytest.raises(BuildError, match=r"known answers 97\.0% right, 3\.0% lost"):
            run(scene, pretended)
        return
    built = run(scene, pretended)
    assert built.gate
    (found,) = built.gate.comparisons
    assert (found.right, found.lost) == (right / 100, round(1 - right / 100, 6))
    assert found.positions == 2 * gate.TOKENS_A_QUESTION + 100
    assert built.gate.most_lost == 0.02


def test_the_known_answers_are_a_few_hundred_tokens() -> None:
    places = known_answers.known_tokens(RANKS)
    assert 300 < len(places) < 500
    # Every place is asked once, and the answer that it leads to is the shipped one.
    assert len({place.context for place in places}) == len(places)
    vocabulary = Vocabulary.load(RANKS)
    answers = iter(msgspec.json.decode(known_answers.PATH.read_bytes(), type=list[tuple[str, str]]))
    written: list[int] = []
    for place in places:
        if place.expected == RETURN:
            question, answer = next(answers)
            assert vocabulary.decode(written) == answer
            assert question in vocabulary.decode(list(place.context))
            written = []
        else:
            written.append(place.expected)
    assert next(answers, None) is None


def test_the_known_answers_of_arithmetic_are_right() -> None:
    asked = dict(msgspec.json.decode(known_answers.PATH.read_bytes(), type=list[tuple[str, str]]))
    computed = 0
    for question, answer in asked.items():
        found = re.fullmatch(r"What is (\d+) ([-+*/]) (\d+)\?", question)
        if found is None:
            continue
        left, sign, right = int(found[1]), found[2], int(found[3])
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}
        assert result[sign] == int(answer), question
        computed += 1
    assert computed > 30
