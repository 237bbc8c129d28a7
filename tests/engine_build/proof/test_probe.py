"""Asking an engine in a process of its own: a replay engine, so that every answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import RANKS
from engine_build.proof import probe
from engine_build.proof.probe import Question
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Die, Raise, Refuse, Scenario, Script, ScriptStep, Tokens
from serving.harmony.vocabulary import RETURN


def play(directory: Path, *steps: ScriptStep, refuse: bool = False) -> Path:
    load = (Refuse(),) if refuse else ()
    replay_engine.write(
        directory, Script(scenarios=(Scenario(steps=steps),), load=load), ranks=RANKS
    )
    return directory


def test_answers_come_with_the_likeliest_tokens(tmp_path: Path) -> None:
    engine = play(tmp_path, Tokens(ids=(7, 8, RETURN)))
    long, short = probe.ask(engine, [Question((1, 2), 10), Question((1, 2))])
    assert long.tokens == (7, 8, RETURN)
    assert len(long.likeliest) == 3
    assert all(token in known for token, known in zip(long.tokens, long.likeliest, strict=True))
    assert len(long.likeliest[0]) >= probe.ALTERNATIVES
    assert short.tokens == (7,)


def test_an_engine_that_does_not_start_is_refused_with_its_own_words(tmp_path: Path) -> None:
    engine = play(tmp_path, Tokens(ids=(7,)), refuse=True)
    with pytest.raises(BuildError, match=r"does not start: .*refuses") as caught:
        probe.ask(engine, [Question((1,))])
    assert caught.value.exit_code is ExitCode.DATA


def test_a_prompt_that_fails_and_an_engine_that_dies_are_told_apart(tmp_path: Path) -> None:
    engine = play(tmp_path, Raise(kind="internal", message="no finite logits"))
    with pytest.raises(BuildError, match="failed a prompt: no finite logits"):
        probe.ask(engine, [Question((1,))])
    with pytest.raises(BuildError, match="stopped: "):
        probe.ask(play(tmp_path, Die()), [Question((1,))])
