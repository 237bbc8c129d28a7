"""Fetches the needed files of a pinned revision from Hugging Face.

A download that broke off goes on at its last byte, also in a later run. It waits when the server
asks for that. Every file is hashed once, when it has arrived.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from engine_build import durable, ledger, space
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.ledger import Ledger
from engine_build.locking import locked
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import CheckpointFile

PIECE_BYTES = 1024 * 1024
TRIES = 6
"""After so many tries of one file without a new byte, the download gives up."""
PARTIAL_CONTENT = 206
WAIT_VARIABLE = "GPT_OSS_FETCH_WAIT_SECONDS"
WAIT_SECONDS = 3600.0

LOCK_NAME = ".lock"


@dataclass(frozen=True, slots=True)
class Download:
    """The files of one revision, and the directory that they go to."""

    described: manifest.CheckpointManifest
    directory: Path
    endpoint: str | None = None
    """Another server than huggingface.co; None for what the environment says."""
    wait_seconds: float = WAIT_SECONDS
    """The longest wait that the server may ask for, in sum, without a new byte."""
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, steps: Steps) -> Path:
        """Returns the directory with every file, whole; each file is a step.

        Raises BuildError: STORAGE before the first byte when there is no space, UNAVAILABLE for
        what the server or the network refuses, DATA for other contents than the manifest's, which
        are deleted.
        """
        with locked(self.directory / LOCK_NAME, steps, "another download of this checkpoint"):
            missing = self.missing()
            if missing:
                space.check(self.directory, self.missing_bytes())
            for number, file in enumerate(missing, start=1):
                step = f"Fetching {file.path} ({number} of {len(missing)})"
                with steps.step(step, file.size_bytes) as advance:
                    self._fetch(file, advance, steps)
            self._check_contents(steps)
        return self.directory

    def missing(self) -> list[CheckpointFile]:
        """Returns the files that are still to be fetched, whole or in part."""
        return [file for file in self.described.files if not self._has(file)]

    def missing_bytes(self) -> int:
        """Returns how many bytes are still to be fetched."""
        return sum(file.size_bytes - self._begun(file) for file in self.missing())

    def reach(self) -> None:
        """Asks the server for one missing file without its contents. Raises HubError."""
        # Here, because a build that has nothing to fetch needs no HTTP client.
        from engine_build import hub

        smallest = min(self.missing(), key=lambda file: file.size_bytes)
        with hub.opened(self._address(smallest), method="HEAD"):
            pass

    def _has(self, file: CheckpointFile) -> bool:
        path = self.directory / file.path
        return path.is_file() and path.stat().st_size == file.size_bytes

    def _check_contents(self, steps: Steps) -> None:
        """Hashes what has not been hashed before. Raises BuildError (DATA)."""
        finished = Ledger(self.directory)
        for file in self.described.files:
            if file.sha256 is not None:
                check = partial(self._check, file, file.sha256, steps)
                finished.once(file.path, self.directory / file.path, file.sha256, check)

    def _check(self, file: CheckpointFile, wanted: str, steps: Steps) -> tuple[str, msgspec.Raw]:
        """Returns the sha256 of a file. Deletes it and raises BuildError if it is another."""
        path = self.directory / file.path
        with steps.step(f"Hashing {file.path}", file.size_bytes) as advance:
            sha256 = durable.sha256(path, advance)
        found_bytes = path.stat().st_size
        if (found_bytes, sha256) != (file.size_bytes, wanted):
            path.unlink()
            raise BuildError(
                ExitCode.DATA,
                f"{path}: has {found_bytes} bytes and sha256 {sha256}, the manifest says "
                f"{file.size_bytes} bytes and sha256 {wanted}",
                "It was deleted: run the same command again to fetch it again",
            )
        return sha256, ledger.NOTHING

    def _partial(self, file: CheckpointFile) -> Path:
        path = self.directory / file.path
        return path.with_name(f".{path.name}.partial")

    def _begun(self, file: CheckpointFile) -> int:
        """Returns how many bytes of a file an earlier run has left."""
        try:
            found_bytes = self._partial(file).stat().st_size
        except FileNotFoundError:
            return 0
        return found_bytes if found_bytes < file.size_bytes else 0

    def _fetch(self, file: CheckpointFile, advance: Advance, steps: Steps) -> None:
        """Fetches one file, trying again as long as bytes arrive. Raises BuildError."""
        from engine_build import hub

        advance(self._begun(file))
        failures, waited_seconds = 0, 0.0
        while True:
            begun = self._begun(file)
            try:
                return self._receive(file, begun, advance)
            except hub.HubError as error:
                problem = error
            if self._begun(file) > begun:
                failures, waited_seconds = 0, 0.0
            wait_seconds = problem.wait_seconds
            if wait_seconds is None:
                failures += 1
                if not problem.may_pass or failures >= TRIES:
                    raise self._failed(file, str(problem), "")
                self.sleep(2.0 ** (failures - 1))
                continue
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + wait_seconds))
            waited_seconds += max(1.0, wait_seconds)
            if waited_seconds > self.wait_seconds:
                advice = f"; it asks to wait until {until}, which {WAIT_VARIABLE} can allow"
                raise self._failed(file, str(problem), advice)
            steps.note(f"The server asks to wait: going on with {file.path} at {until}")
            self.sleep(max(1.0, wait_seconds))

    def _failed(self, file: CheckpointFile, problem: str, more: str) -> BuildError:
        return BuildError(
            ExitCode.UNAVAILABLE,
            f"{file.path} of {self.described.repository} at {self.described.revision}: "
            f"{problem}{more}",
            "Run the same command again to go on, or pass --checkpoint DIRECTORY",
        )

    def _address(self, file: CheckpointFile) -> str:
        from engine_build import hub

        described = self.described
        return hub.address(described.repository, described.revision, file.path, self.endpoint)

    def _receive(self, file: CheckpointFile, begin: int, advance: Advance) -> None:
        """Appends to what is there of a file until it is whole, and gives it its name.

        Raises HubError, BuildError (STORAGE) for the disk.
        """
        from engine_build import hub

        target, growing = self.directory / file.path, self._partial(file)
        with hub.opened(self._address(file), begin) as response:
            goes_on = begin > 0 and response.status_code == PARTIAL_CONTENT
            with durable.storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with growing.open("ab" if goes_on else "wb") as written:
                    for piece in response.iter_bytes(PIECE_BYTES):
                        written.write(piece)
                        written.flush()
                        advance(len(piece))
                    os.fsync(written.fileno())
                growing.replace(target)
                durable.sync_directory(target.parent)


def allowed_wait_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Returns how long a download may wait when the server asks for that.

    Raises BuildError (CONFIGURATION) for anything but a number of seconds.
    """
    text = environ.get(WAIT_VARIABLE, "")
    try:
        seconds = float(text or WAIT_SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise BuildError(
            ExitCode.CONFIGURATION, f"{WAIT_VARIABLE} = {text}: must be a number of seconds"
        )
    return seconds
