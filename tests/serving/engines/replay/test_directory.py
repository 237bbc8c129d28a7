from __future__ import annotations

from pathlib import Path

import pytest

import model_assets
from serving.boundary import engine
from serving.boundary.engine import EngineError, Limits
from serving.engines.replay import directory as writer
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
SCRIPT = Script(scenarios=(Scenario(steps=(scripts.Tokens(ids=(1, 2)),)),))


def test_it_is_an_engine_whose_every_byte_is_accounted_for(tmp_path: Path) -> None:
    limits = Limits(max_batch_size=3, max_num_tokens=5, max_seq_len=7)
    writer.write(tmp_path, SCRIPT, ranks=RANKS, limits=limits)
    manifest = engine.verify(tmp_path)
    assert (manifest.runtime, manifest.limits, manifest.model.stand_in) == ("replay", limits, True)
    assert {file.path for file in manifest.files} == {engine.RANKS_PATH, scripts.SCRIPT_NAME}
    assert scripts.read(tmp_path) == SCRIPT


def test_it_is_written_again_over_itself(tmp_path: Path) -> None:
    writer.write(tmp_path, SCRIPT, ranks=RANKS)
    first = engine.verify(tmp_path).digest
    changed = Script(scenarios=SCRIPT.scenarios, pace_seconds=1.0)
    writer.write(tmp_path, changed, ranks=RANKS)
    assert engine.verify(tmp_path).digest != first
    assert scripts.read(tmp_path) == changed


def test_a_changed_script_is_found(tmp_path: Path) -> None:
    writer.write(tmp_path, SCRIPT, ranks=RANKS)
    path = tmp_path / scripts.SCRIPT_NAME
    path.write_bytes(path.read_bytes().replace(b"[1,2]", b"[1,3]"))
    with pytest.raises(EngineError, match=scripts.SCRIPT_NAME):
        engine.verify(tmp_path)


def test_the_ranks_are_copied_where_a_link_is_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    writer.write(tmp_path, SCRIPT, ranks=RANKS)
    engine.verify(tmp_path)
    assert (tmp_path / engine.RANKS_PATH).stat().st_nlink == 1
