"""A machine in a temporary directory, with a checkpoint of a few bytes to build from."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from engine_build import durable
from engine_build.assemble import PlannedFile
from engine_build.build import Outcome, build
from engine_build.fetch import Checkpoint
from engine_build.place import State
from engine_build.profiles.profile import Profile, load
from engine_build.progress import Steps
from engine_build.proof.ranks import RankComparison
from serving.boundary.engine import Architecture, Engine, Golden, Model
from tests.engine_build.checkpoints import TINY, make

FIRST, SECOND = "model-00001.safetensors", "model-00002.safetensors"
ARCHITECTURE = Architecture(
    **{name: getattr(TINY, name) for name in Architecture.__struct_fields__}
)


@dataclass
class Scene:
    """One machine: a checkpoint, a state directory, a model store."""

    root: Path
    runtime_version: str = "1"
    recorded: list[str] = field(default_factory=list)
    """The digests of the drafts whose golden prompts ran."""
    weights: str = "mxfp4"
    ranks: int = 1
    architecture: Architecture = ARCHITECTURE

    @property
    def state(self) -> State:
        return State(self.root / "state")

    @property
    def store(self) -> Path:
        return self.root / "bentoml" / "models"

    @property
    def profile(self) -> Profile:
        """The development profile, with this scene's weights on this scene's ranks."""
        raw = load("development").model_dump()
        raw["precision"]["weights"] = self.weights
        raw["mesh"] = {"tensor_parallel": self.ranks, "expert_parallel": self.ranks}
        raw["device"]["count"] = self.ranks
        return Profile.model_validate(raw)

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
            architecture=self.architecture,
            files=tuple(
                PlannedFile(f"checkpoint/{p.name}", p, p.stat().st_size, durable.sha256(p))
                for p in sorted(self.origins.iterdir())
            ),
        )

    def clean_up(self) -> None:
        """The origins stay: they are the test's."""

    def record(self, _directory: Path, draft: Engine) -> tuple[Golden, ...]:
        """Stands in for the run of the golden prompts."""
        self.recorded.append(draft.digest)
        return (Golden(name="greeting", prompt=(1, 2), tokens=(3,)),)

    def compare(self, _directory: Path, _whole: Path, built: Engine) -> RankComparison:
        """Stands in for the run of the ranks."""
        ranks = built.mesh.tensor_parallel
        return RankComparison(ranks=ranks, positions=1, largest_difference=0.0)

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
            compare=self.compare,
            force=force,
        )


def furnish(root: Path, weights: str = "mxfp4", ranks: int = 1) -> Scene:
    """Returns a machine on which nothing has been built; every one has the same checkpoint."""
    made = Scene(root, weights=weights, ranks=ranks)
    make(made.origins, TINY, names=(FIRST, SECOND))
    (made.origins / "LICENSE").write_text("Apache-2.0", encoding="utf-8")
    return made
