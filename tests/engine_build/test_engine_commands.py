"""The commands on engines that exist: what they print, what they leave, how they fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine_build import durable, publish
from engine_build.failure import ExitCode
from engine_build.fetch import RANKS
from engine_build.place import State
from serving.boundary import engine
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

Run = Callable[..., int]
Output = pytest.CaptureFixture[str]


def test_an_exported_engine_is_imported_as_it_was(
    scene: Scene, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    file = tmp_path / "engine.tar"
    assert run("export", "gpt-oss-development", str(file)) == 0
    built = engine.read(scene.engine)
    assert built.digest in capsys.readouterr().out
    other = State(tmp_path / "other")
    monkeypatch.setenv("GPT_OSS_STATE", str(other.root))
    assert run("import", str(file)) == 0
    assert "imported" in capsys.readouterr().out
    assert engine.verify(other.engine(built.name)) == built
    assert run("import", str(file)) == 0
    assert "here already" in capsys.readouterr().out
    assert run("diff", str(scene.engine), str(other.engine(built.name))) == 0
    assert capsys.readouterr().out == "The engines are the same\n"


def test_diff_says_what_differs_and_leaves_with_one(
    scene: Scene, run: Run, tmp_path: Path, capsys: Output
) -> None:
    script = Script(scenarios=(Scenario(steps=(Repeat(ids=(5,)),)),))
    replay_engine.write(tmp_path / "replay", script, ranks=RANKS)
    assert run("diff", "gpt-oss-development", str(tmp_path / "replay")) == 1
    shown = capsys.readouterr().out
    assert 'runtime: "embedded", then "replay"' in shown
    assert "checkpoint/config.json: only in the first, " in shown


def test_publish_puts_a_built_engine_into_the_store(scene: Scene, run: Run, capsys: Output) -> None:
    built = scene.build(publish=False).engine
    durable.remove(scene.store / built.name)
    assert run("publish", "gpt-oss-development") == 0
    assert capsys.readouterr().out.startswith(publish.tag(built))
    assert publish.published(built, scene.store)


def test_tune_runs_the_shapes_and_reports(
    scene: Scene, run: Run, tmp_path: Path, capsys: Output
) -> None:
    script = Script(scenarios=(Scenario(steps=(Repeat(ids=(5,)),)),))
    replay_engine.write(tmp_path / "replay", script, ranks=RANKS)
    assert run("tune", str(tmp_path / "replay")) == 0
    shown = capsys.readouterr().out
    assert "first start: " in shown
    assert "second start: " in shown
    assert "kept: nothing; the replay runtime" in shown
    assert scene.state.tuning("replay").is_file()


def test_what_is_not_there_is_one_line(run: Run, tmp_path: Path, capsys: Output) -> None:
    for arguments in (
        ("tune", "nothing"),
        ("publish", "nothing"),
        ("export", "nothing", str(tmp_path / "x.tar")),
        ("import", str(tmp_path / "x.tar")),
    ):
        assert run(*arguments) == ExitCode.MISSING
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith("error: ")
    assert not (tmp_path / "x.tar").exists()
