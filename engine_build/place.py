"""The places that a build writes to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class State:
    """What builds leave on this machine; deleting it loses nothing but time."""

    root: Path

    def engine(self, name: str) -> Path:
        """Returns the directory of a finished engine."""
        return self.root / "engines" / name

    def work(self, name: str) -> Path:
        """Returns the directory in which an engine grows until it is finished."""
        return self.root / "engines" / f".{name}.work"

    def replaced(self, name: str) -> Path:
        """Returns where a finished engine waits for deletion while the next one takes its name."""
        return self.root / "engines" / f".{name}.replaced"

    def reference(self, name: str) -> Path:
        """Returns the directory of the engine that the precision gate compares with."""
        return self.root / "engines" / f".{name}.reference"

    def conversion(self, name: str) -> Path:
        """Returns the directory in which an engine's weights are converted and cut."""
        return self.root / "engines" / f".{name}.conversion"

    def incoming(self, name: str) -> Path:
        """Returns the directory in which an imported engine grows until it is whole."""
        return self.root / "engines" / f".{name}.incoming"

    def tuning(self, name: str) -> Path:
        """Returns the report of an engine's last tuning."""
        return self.root / "engines" / f"{name}.tune.json"

    def calibration(self, name: str) -> Path:
        """Returns what `calibrate` measured with an engine."""
        return self.root / "engines" / f"{name}.calibration.json"

    def lock(self, name: str) -> Path:
        """Returns the file that one build of this engine at a time holds locked."""
        return self.root / "engines" / f".{name}.lock"

    def report(self, name: str) -> Path:
        """Returns the report of an engine's last build, with times: no part of the engine."""
        return self.root / "engines" / f"{name}.build.json"

    def checkpoint(self, name: str, digest: str) -> Path:
        """Returns the directory of a checkpoint that a build made, by the sha256 of its source."""
        return self.root / "checkpoints" / f"{name}-{digest[:16]}"


def state(environ: Mapping[str, str] = os.environ) -> State:
    """Returns the state directory: $GPT_OSS_STATE, else .state in the repository."""
    return State(Path(environ.get("GPT_OSS_STATE") or REPOSITORY / ".state").absolute())


def model_store(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns where BentoML keeps models: $BENTOML_HOME/models, else ~/bentoml/models.

    BentoML's own rule, so that an engine can be looked up without importing BentoML.
    """
    home = environ.get("BENTOML_HOME") or "~/bentoml"
    return Path(os.path.expanduser(home)).absolute() / "models"
