"""The life of the app: what it does at import, at start, and with an engine it cannot serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.app import create_app
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Refuse, Scenario, Script, Tokens
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Settings
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import listening, until, until_ready

SCRIPT = Script(scenarios=(Scenario(steps=(Tokens(ids=(1,)),)),))


def test_making_the_app_imports_no_torch_and_starts_nothing() -> None:
    code = (
        "import sys, threading\n"
        "from serving.app import create_app\n"
        "from serving.settings import Settings\n"
        "app = create_app(Settings())\n"
        "assert 'torch' not in sys.modules and 'bentoml' not in sys.modules\n"
        "assert threading.active_count() == 1\n"
        "assert any(r.path.endswith('/chat/completions') for r in app.routes)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_without_an_engine_the_service_says_that_it_is_dead(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = create_app(Settings())
    service = app.state.service
    assert service.alive
    async with listening(app):
        await until(lambda: not service.alive)
        assert not service.ready
        assert service.state == "failed"
    assert "GPT_OSS_ENGINE" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "changed", "no_vocabulary"])
async def test_a_damaged_engine_is_refused_with_the_file_named(
    tmp_path: Path, ranks: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "engine"
    if damage != "missing":
        replay_engine.write(directory, SCRIPT, ranks=ranks)
    if damage == "changed":
        (directory / "script.json").write_text("{}")
    if damage == "no_vocabulary":
        (directory / "tokenizer" / "o200k_base.tiktoken.xz").unlink()
    app = create_app(Settings(engine=str(directory)))
    async with listening(app):
        await until(lambda: not app.state.service.alive)
    logged = capsys.readouterr().err
    named = {"missing": "engine.json", "changed": "script.json", "no_vocabulary": "tiktoken.xz"}
    assert named[damage] in logged


async def test_an_engine_that_refuses_this_machine_makes_the_service_dead(
    tmp_path: Path, ranks: Path
) -> None:
    directory = tmp_path / "engine"
    script = Script(scenarios=SCRIPT.scenarios, load=(Refuse(message="not here"),))
    replay_engine.write(directory, script, ranks=ranks)
    app = create_app(Settings(engine=str(directory), log_level="error"))
    async with listening(app):
        await until(lambda: not app.state.service.alive)
        assert app.state.service.state == "failed"


async def test_the_host_s_directory_stands_above_the_setting(
    tmp_path: Path, ranks: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    directory = tmp_path / "engine"
    replay_engine.write(directory, SCRIPT, ranks=ranks)
    engine = FakeEngine()
    app = create_app(Settings(engine="/nowhere", log_level="error"), launch=engine.launch)
    app.state.engine_directory = directory
    async with listening(app):
        await until_ready(app.state.service)
        assert app.state.service.backend().manifest.name == "replay"
    assert engine.state.value == "stopped"
