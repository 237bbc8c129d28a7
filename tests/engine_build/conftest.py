"""A machine with a built engine, and the command line on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine_build import __main__ as command_line
from tests.engine_build.scene import Scene, furnish


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A machine on which the development profile's engine has been built and published."""
    made = furnish(tmp_path)
    made.build()
    return made


@pytest.fixture
def run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line on the scene's machine and returns the exit code."""
    monkeypatch.setenv("GPT_OSS_STATE", str(scene.state.root))
    monkeypatch.setenv("BENTOML_HOME", str(scene.store.parent))
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["engine_build", *arguments])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        code = left.value.code
        return code if isinstance(code, int) else 0

    return call
