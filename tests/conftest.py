"""Fixtures that tests of every part use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import model_assets
from serving.boundary.engine import Limits
from serving.engines.replay import directory as writer
from serving.engines.replay.script import Script

ReplayEngine = Callable[..., Path]


@pytest.fixture
def replay_engine(tmp_path: Path) -> ReplayEngine:
    """Returns a function that writes a replay engine playing a script, and returns where."""
    ranks = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"

    def write(script: Script, *, limits: Limits = writer.LIMITS) -> Path:
        directory = tmp_path / "engine"
        writer.write(directory, script, ranks=ranks, limits=limits)
        return directory

    return write
