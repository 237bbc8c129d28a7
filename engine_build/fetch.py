"""Where a checkpoint comes from: a directory that is given, this repository, Hugging Face."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import msgspec

import model_assets
from engine_build import durable
from engine_build.assemble import PlannedFile
from engine_build.download import Download, allowed_wait_seconds
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.place import State
from engine_build.profiles.profile import Profile
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import ManifestError
from serving.boundary.engine import CHECKPOINT_DIRECTORY, RANKS_PATH, Architecture, Model

ASSETS = Path(model_assets.__file__).parent
RANKS = ASSETS / RANKS_PATH
OWN_REPOSITORY = "model_assets"
"""The `repository` of a checkpoint that this repository holds."""

_PACKAGES = {"embedded": "torch", "trtllm": "tensorrt-llm"}
"""The package whose version decides what an engine's runtime does."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine: what it is, and each file with what it must hold."""

    model: Model
    architecture: Architecture
    files: tuple[PlannedFile, ...]


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """A file of a checkpoint, and whether it is on this machine with the right length."""

    path: str
    size_bytes: int
    here: bool


@dataclass(frozen=True, slots=True)
class _CheckpointFiles:
    """Where a checkpoint's files are, or will be."""

    described: manifest.CheckpointManifest
    directory: Path
    runtime_version: str

    @property
    def identity(self) -> str:
        """The manifest's digest: it holds the sha256 of every file."""
        return durable.digest(msgspec.json.encode(self.described, order="deterministic"))

    def expected(self) -> list[ExpectedFile]:
        """Returns the files of the manifest."""
        return _expected(self.described, self.directory)

    def clean_up(self) -> None:
        """Does nothing: the files are not the build's, or serve the next one too."""


@dataclass(frozen=True, slots=True)
class GivenCheckpoint(_CheckpointFiles):
    """A checkpoint in a directory that somebody has filled: a download, a cache, a mount."""

    def fetch(self, _steps: Steps) -> Checkpoint:
        """Returns the files of the manifest.

        Raises BuildError naming a file that is missing or cut short, a field of config.json, or a
        tensor that is not what it must be.
        """
        # Here, because numpy takes a while and a build that has nothing to do needs none.
        from engine_build.weights import tensors

        sizes = architecture(self.described)
        if (self.directory / tensors.CONFIG_NAME).is_file():
            # First, so that the directory of another model is called that.
            tensors.check_config(self.directory, sizes)
        for file in self.described.files:
            if not (self.directory / file.path).is_file():
                raise BuildError(
                    ExitCode.MISSING,
                    f"{self.directory / file.path} is missing",
                    f"It belongs to {self.described.repository} at {self.described.revision}",
                )
        with tensors.open_checkpoint(self.directory) as opened:
            tensors.check(self.directory, opened, sizes)
        wanted = []
        for file in self.described.files:
            origin = self.directory / file.path
            found_bytes = origin.stat().st_size
            if found_bytes != file.size_bytes:
                raise BuildError(
                    ExitCode.DATA,
                    f"{origin} has {found_bytes} bytes, its manifest says {file.size_bytes}",
                    "Fetch this file again",
                )
            path = f"{CHECKPOINT_DIRECTORY}/{file.path}"
            wanted.append(PlannedFile(path, origin, file.size_bytes, file.sha256))
        return _checkpoint(self.described, wanted)

    def obtain(self, steps: Steps) -> Path:
        """Hashes every file and returns where they are. Raises BuildError naming a wrong one."""
        self.fetch(steps)
        total_bytes = sum(file.size_bytes for file in self.described.files)
        with steps.step("Hashing the checkpoint's files", total_bytes) as advance:
            for file in self.described.files:
                _check_hash(self.directory / file.path, file.sha256, advance)
        return self.directory


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint(GivenCheckpoint):
    """A checkpoint on Hugging Face. Its files stay: the engine's are links to them."""

    def fetch(self, steps: Steps) -> Checkpoint:
        """Fetches what is not here yet. Raises BuildError."""
        self.obtain(steps)
        return GivenCheckpoint.fetch(self, steps)

    def obtain(self, steps: Steps) -> Path:
        """Fetches and hashes what is not here yet, and returns where it is. Raises BuildError."""
        return self.download().fetch(steps)

    def download(self) -> Download:
        """Returns what fetches it, as the environment allows."""
        return Download(self.described, self.directory, wait_seconds=allowed_wait_seconds())


@dataclass(frozen=True, slots=True)
class CompactCheckpoint(_CheckpointFiles):
    """The development checkpoint, which this repository holds in a compact form."""

    def expected(self) -> list[ExpectedFile]:
        """Returns the compact file."""
        return _expected(self.described, ASSETS)

    def fetch(self, steps: Steps) -> Checkpoint:
        """Checks the compact file and expands it. Raises BuildError (DATA) if it has changed."""
        expanded = self.directory / "expanded"
        if not expanded.is_dir():
            durable.remove(self.directory)
            with steps.step("Expanding the development checkpoint"):
                self._expand(expanded)
        wanted = [
            PlannedFile(f"{CHECKPOINT_DIRECTORY}/{path.name}", path, path.stat().st_size)
            for path in sorted(expanded.iterdir())
        ]
        return _checkpoint(self.described, wanted)

    def obtain(self, steps: Steps) -> Path:
        """Hashes the compact file, which is part of this repository. Raises BuildError."""
        (file,) = self.described.files
        with steps.step("Hashing the checkpoint's file", file.size_bytes) as advance:
            _check_hash(ASSETS / file.path, file.sha256, advance)
        return ASSETS

    def clean_up(self) -> None:
        """Deletes the expanded form: the engine has it."""
        durable.remove(self.directory)

    def _expand(self, expanded: Path) -> None:
        # Here, because numpy takes a while and a build that has nothing to do needs none.
        from model_assets.development import expand

        (file,) = self.described.files
        compact = ASSETS / file.path
        _check_hash(compact, file.sha256, durable.ignore, "Check this file out again")
        with durable.storage_errors(expanded):
            expanded.parent.mkdir(parents=True, exist_ok=True)
            expand.expand(compact, expanded)


CheckpointSource = GivenCheckpoint | CompactCheckpoint


def choose(profile: Profile, directory: Path | None, state: State) -> CheckpointSource:
    """Returns where the checkpoint of a profile comes from.

    Raises BuildError: CONFIGURATION for an unknown checkpoint; UNAVAILABLE when this machine lacks
    the profile's runtime, before anything is fetched.
    """
    described = describe(profile)
    check_runtime(profile)
    version = importlib.metadata.version(_PACKAGES[profile.runtime])
    return locate(described, directory, state, version)


def find(profile: Profile, directory: Path | None, state: State) -> CheckpointSource:
    """Returns the same on any machine. The version is empty where the runtime is not installed."""
    version = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(_PACKAGES[profile.runtime])
    return locate(describe(profile), directory, state, version)


def check_runtime(profile: Profile) -> None:
    """Raises BuildError (UNAVAILABLE) when this machine lacks the profile's runtime."""
    if profile.runtime == "trtllm" and importlib.util.find_spec("tensorrt_llm") is None:
        device = f"{profile.device.count} x {profile.device.kind}"
        raise BuildError(
            ExitCode.UNAVAILABLE,
            f"{profile.name} cannot be built here: TensorRT-LLM is not installed",
            f"Build inside its release container, on {device}",
        )


def locate(
    described: manifest.CheckpointManifest,
    directory: Path | None,
    state: State,
    runtime_version: str = "",
) -> CheckpointSource:
    """Returns where a checkpoint comes from. Needs no runtime."""
    if directory is not None:
        return GivenCheckpoint(described, directory, runtime_version)
    directory = state.checkpoint(described.name, described.revision)
    if described.repository == OWN_REPOSITORY:
        return CompactCheckpoint(described, directory, runtime_version)
    return PublishedCheckpoint(described, directory, runtime_version)


def describe(profile: Profile) -> manifest.CheckpointManifest:
    """Returns the manifest of a profile's checkpoint. Raises BuildError (CONFIGURATION)."""
    try:
        return manifest.read(profile.checkpoint)
    except ManifestError as error:
        raise BuildError(ExitCode.CONFIGURATION, str(error)) from None


def architecture(described: manifest.CheckpointManifest) -> Architecture:
    """Returns the numbers of the checkpoint's network that an engine's manifest holds."""
    numbers = msgspec.structs.asdict(described.architecture)
    return Architecture(**{name: numbers[name] for name in Architecture.__struct_fields__})


def _expected(described: manifest.CheckpointManifest, directory: Path) -> list[ExpectedFile]:
    found = []
    for file in described.files:
        path = directory / file.path
        here = path.is_file() and path.stat().st_size == file.size_bytes
        found.append(ExpectedFile(file.path, file.size_bytes, here))
    return found


def _check_hash(
    path: Path, wanted: str | None, advance: Advance, advice: str = "Fetch this file again"
) -> None:
    sha256 = durable.sha256(path, advance)
    if wanted not in (None, sha256):
        raise BuildError(
            ExitCode.DATA,
            f"{path} has sha256 {sha256}, its manifest says {wanted}",
            advice,
        )


def _checkpoint(described: manifest.CheckpointManifest, files: list[PlannedFile]) -> Checkpoint:
    ranks = PlannedFile(RANKS_PATH, RANKS, RANKS.stat().st_size)
    return Checkpoint(
        model=Model(
            name=described.name,
            repository=described.repository,
            revision=described.revision,
            stand_in=described.stand_in,
        ),
        architecture=architecture(described),
        files=(*files, ranks),
    )
