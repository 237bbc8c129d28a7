"""Golden prompts: recorded from a run, and another answer is found and placed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import model_assets
from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden, golden_prompts
from serving.boundary import engine
from serving.boundary.engine import Engine
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Raise, Refuse, Scenario, Script, ScriptStep, Tokens
from serving.harmony.vocabulary import CALL, RETURN

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
NAMES = ["greeting", "fact", "tool"]


def play(directory: Path, *steps: ScriptStep, refuse: bool = False) -> Engine:
    """Makes the directory a replay engine that answers every prompt with these steps."""
    load = (Refuse(),) if refuse else ()
    script = Script(scenarios=(Scenario(steps=steps),), load=load)
    replay_engine.write(directory, script, ranks=RANKS)
    return engine.read(directory)


def test_the_answers_are_recorded_with_their_prompts(tmp_path: Path) -> None:
    built = play(tmp_path, Tokens(ids=(7, 8, RETURN, 9)))
    recorded = golden.record(tmp_path, built)
    assert [one.name for one in recorded] == NAMES
    assert all(one.tokens == (7, 8, RETURN) for one in recorded)
    assert len({one.prompt for one in recorded}) == 3


def test_an_answer_ends_at_a_call_or_when_it_is_long(tmp_path: Path) -> None:
    assert golden.record(tmp_path, play(tmp_path, Tokens(ids=(CALL, 1))))[0].tokens == (CALL,)
    long = golden.record(tmp_path, play(tmp_path, Tokens(ids=tuple(range(100)))))
    assert len(long[0].tokens) == golden_prompts.MAX_TOKENS


def test_the_same_engine_passes_and_another_answer_is_placed(tmp_path: Path) -> None:
    built = play(tmp_path, Tokens(ids=(7, 8, RETURN)))
    built = msgspec.structs.replace(built, golden=golden.record(tmp_path, built))
    golden.check(tmp_path, built)
    play(tmp_path, Tokens(ids=(7, 9, RETURN)))
    with pytest.raises(BuildError, match=r"golden\.greeting: .* at position 1") as caught:
        golden.check(tmp_path, built)
    assert caught.value.exit_code is ExitCode.DATA


def test_a_shorter_answer_is_placed_at_its_end(tmp_path: Path) -> None:
    built = play(tmp_path, Tokens(ids=(7, 8, RETURN)))
    built = msgspec.structs.replace(built, golden=golden.record(tmp_path, built))
    play(tmp_path, Tokens(ids=(7,)))
    with pytest.raises(BuildError, match="at position 1"):
        golden.check(tmp_path, built)


def test_an_engine_that_fails_a_prompt_is_refused(tmp_path: Path) -> None:
    built = play(tmp_path, Raise(kind="internal", message="no finite logits"))
    with pytest.raises(BuildError, match="no finite logits"):
        golden.record(tmp_path, built)


def test_an_engine_that_does_not_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    built = play(tmp_path, Tokens(ids=(1,)), refuse=True)
    with pytest.raises(BuildError, match=r"does not start: .*The script refuses to start"):
        golden.record(tmp_path, built)
