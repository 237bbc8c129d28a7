"""The development engine, made by the real command on a machine of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.commands import run

MODEL = "openai/gpt-oss-120b"
COMMAND = [sys.executable, "-m", "engine_build"]


@dataclass(frozen=True)
class Machine:
    """A machine with nothing on it but this repository and its packages."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "bentoml"

    @property
    def engine(self) -> Path:
        return self.root / "state" / "engines" / "gpt-oss-development"

    def build(self, *arguments: str) -> str:
        """Builds the development engine and returns what the command says of it."""
        extra = {"GPT_OSS_STATE": str(self.root / "state")}
        done = run([*COMMAND, "build", "development", *arguments], self.home, extra=extra)
        assert done.returncode == 0, done.stderr
        return done.stdout
