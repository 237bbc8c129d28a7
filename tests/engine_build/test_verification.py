"""Verification by running: what is measured, what is kept, what is pointed out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec
import pytest

from engine_build import verification
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import RANKS
from engine_build.proof import golden
from engine_build.proof.probe import Batch
from engine_build.verification import VerificationReport
from serving.boundary import engine
from serving.boundary.engine import Engine, Golden, Limits, Mesh
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Raise, Repeat, Scenario, Script, ScriptStep, Tokens
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

LIMITS = Limits(max_batch_size=6, max_num_tokens=64, max_seq_len=256)
WHEN = "2026-01-31 12:00 UTC"


def play(directory: Path, *steps: ScriptStep) -> Engine:
    script = Script(scenarios=(Scenario(steps=steps),))
    replay_engine.write(directory, script, ranks=RANKS, limits=LIMITS)
    return engine.read(directory)


def measure(directory: Path, built: Engine) -> VerificationReport:
    """Verifies by a clock that shows one second more at each look."""
    seconds = count()
    return verification.run(directory, built, WHEN, lambda: float(next(seconds)))


def test_one_sequence_several_and_a_prompt_are_measured(tmp_path: Path) -> None:
    report = measure(tmp_path, play(tmp_path, Repeat(ids=(5,))))
    rates = {one.shape: one.tokens_per_second for one in report.figures}
    assert rates == {Batch(1, 16): 64.0, Batch(6, 16): 384.0, Batch(1, 255): 255.0}
    assert report.load_seconds is not None
    assert report.device
    assert report.measured == WHEN


def test_a_small_engine_is_asked_for_what_it_can_hold(tmp_path: Path) -> None:
    built = play(tmp_path, Repeat(ids=(5,)))
    small = Limits(max_batch_size=1, max_num_tokens=8, max_seq_len=20)
    found = verification.shapes(msgspec.structs.replace(built, limits=small))
    assert found == [(Batch(1, 10), 10), (Batch(1, 19), 1)]


def test_another_answer_than_then_is_no_rate(tmp_path: Path) -> None:
    built = play(tmp_path, Tokens(ids=(5, 6)))
    wrong = Golden(name="greeting", prompt=(1,), tokens=(5, 7))
    with pytest.raises(BuildError, match=r"golden\.greeting: .* at position 1") as raised:
        measure(tmp_path, msgspec.structs.replace(built, golden=(wrong,)))
    assert raised.value.exit_code is ExitCode.DATA


def test_an_engine_that_fails_a_prompt_says_so(tmp_path: Path) -> None:
    built = play(tmp_path, Raise(kind="internal", message="no"))
    with pytest.raises(BuildError, match="the engine failed 1 prompts of 16 tokens: no"):
        measure(tmp_path, built)


def test_rank_files_of_the_embedded_runtime_have_no_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "check", lambda *_: None)
    built = play(tmp_path, Repeat(ids=(5,)))
    ranks = msgspec.structs.replace(
        built, runtime="embedded", mesh=Mesh(tensor_parallel=2, expert_parallel=2)
    )
    report = verification.run(tmp_path, ranks, WHEN)
    assert not report.figures
    assert "no rate" in "\n".join(verification.lines(report))


def test_a_rate_is_shown_beside_the_one_before_of_the_same_engine(tmp_path: Path) -> None:
    report = measure(tmp_path / "engine", play(tmp_path / "engine", Repeat(ids=(5,))))
    where = tmp_path / "engine.verify.json"
    assert verification.keep(report, where) is None
    slow = msgspec.structs.replace(
        report,
        figures=tuple(
            msgspec.structs.replace(one, tokens_per_second=one.tokens_per_second * 0.4)
            for one in report.figures
        ),
    )
    earlier = verification.keep(slow, where)
    assert earlier == report
    shown = list(verification.lines(slow, earlier))
    assert f"6 streams: 154 tokens/s (384 on {WHEN})" in shown
    assert sum("warning: less than half of then" in line for line in shown) == 3
    assert not [line for line in verification.lines(report, slow) if "warning" in line]
    assert verification.keep(msgspec.structs.replace(slow, digest="another"), where) is None


def test_the_command_records_what_it_found(
    scene: Scene, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tmp_path / "replay", Repeat(ids=(5,)))
    assert run("verify", str(tmp_path / "replay")) == 0
    where = verification.path(scene.state, "replay")
    assert not where.exists()
    assert run("verify", str(tmp_path / "replay"), "--run") == 0
    assert "1 stream: " in capsys.readouterr().out
    found = msgspec.json.decode(where.read_bytes(), type=VerificationReport)
    assert found.digest == engine.read(tmp_path / "replay").digest
