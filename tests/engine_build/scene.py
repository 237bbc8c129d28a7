"""A machine in a temporary directory, with a checkpoint of a few bytes to build from."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from engine_build import durable
from engine_build.assemble import Wanted
from engine_build.build import Outcome, build
from engine_build.fetch import Checkpoint
from engine_build.place import State
from engine_build.profile import Profile, load
from engine_build.progress import Steps
from serving.engine import Engine, Golden, Model
from serving.runtime.replay_engine import ARCHITECTURE


@dataclass
class Scene:
    """One machine: a checkpoint, a state directory, a model store."""

    root: Path
    runtime_version: str = "1"
    recorded: list[str] = field(default_factory=list)
    """The digests of the drafts whose golden prompts ran."""

    @property
    def state(self) -> State:
        return State(self.root / "state")

    @property
    def store(self) -> Path:
        return self.root / "bentoml" / "models"

    @property
    def profile(self) -> Profile:
        return load("development")

    @property
    def engine(self) -> Path:
        return self.state.engine(self.profile.name)

    @property
    def origins(self) -> Path:
        return self.root / "origins"

    @property
    def identity(self) -> str:
        return durable.digest(b"".join(p.read_bytes() for p in sorted(self.origins.iterdir())))

    # What follows is a Source.

    def fetch(self, _steps: Steps) -> Checkpoint:
        """Returns the checkpoint as it is on disk."""
        return Checkpoint(
            model=Model(name="m", repository="r", revision="v", stand_in=True),
            architecture=ARCHITECTURE,
            files=tuple(
                Wanted(f"checkpoint/{p.name}", p, p.stat().st_size, durable.sha256(p))
                for p in sorted(self.origins.iterdir())
            ),
        )

    def forget(self) -> None:
        """The origins stay: they are the test's."""

    def record(self, _directory: Path, draft: Engine) -> tuple[Golden, ...]:
        """Stands in for the run of the golden prompts."""
        self.recorded.append(draft.digest)
        return (Golden(name="greeting", prompt=(1, 2), tokens=(3,)),)

    def steps(self) -> Steps:
        """Returns steps that nobody watches."""
        return Steps(Console(file=io.StringIO()))

    def build(self, *, publish: bool = True, force: bool = False) -> Outcome:
        """Builds the development profile's engine of this machine's checkpoint."""
        return build(
            self.profile,
            self,
            self.state,
            self.steps(),
            store=self.store if publish else None,
            record=self.record,
            force=force,
        )


def furnish(root: Path, runtime_version: str = "1") -> Scene:
    """Returns a machine on which nothing has been built; every one has the same checkpoint."""
    made = Scene(root, runtime_version)
    made.origins.mkdir(parents=True)
    for name, content in {
        "config.json": b'{"model_type": "gpt_oss"}',
        "model-00001.safetensors": bytes(range(256)) * 64,
        "model-00002.safetensors": bytes(reversed(range(256))) * 64,
    }.items():
        (made.origins / name).write_bytes(content)
    return made
