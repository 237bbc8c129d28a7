"""Puts an engine together: for each profile that a build tries, a directory that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_build import assemble, manifest
from engine_build.conversion import Conversion
from engine_build.fetch import Checkpoint
from engine_build.profiles.profile import Profile
from engine_build.progress import Steps
from serving.boundary.engine import Engine, File


@dataclass(frozen=True, slots=True)
class Workbench:
    """The work directory of a build, and what it is filled from."""

    work: Path
    checkpoint: Checkpoint
    runtime_version: str
    conversion: Conversion
    steps: Steps

    def make(self, chosen: Profile) -> Engine:
        """Makes `work` the engine of a profile, without golden results, and returns its manifest.

        Files that are in place stay. Raises BuildError.
        """
        wanted = self.conversion.files(chosen)
        total_bytes = sum(file.size_bytes for file in wanted)
        with self.steps.step("Placing and hashing the engine's files", total_bytes) as advance:
            files = assemble.assemble(wanted, self.work, advance)
        draft = self._compose(chosen, files)
        manifest.write(self.work, draft)
        return draft

    def link(self, chosen: Profile, directory: Path) -> None:
        """Fills `directory` with links, so that it runs as the engine of a profile would.

        The manifest names none of the files.
        """
        assemble.link(self.conversion.files(chosen), directory)
        manifest.write(directory, self._compose(chosen, ()))

    def _compose(self, chosen: Profile, files: Sequence[File]) -> Engine:
        return manifest.compose(
            chosen,
            self.checkpoint.model,
            self.checkpoint.architecture,
            self.runtime_version,
            files,
        )
