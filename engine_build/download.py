"""Fetches a published checkpoint from Hugging Face: the pinned revision, the needed files alone.

A download that broke off goes on at its last byte, also in a later run: huggingface_hub, whose
client and words for errors are used, has given that up. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE
are respected as it does. Every file is hashed once when it has arrived; a record beside the files
says of which that is so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_build import durable
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.occupancy import alone
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import CheckpointFile

SPARE_BYTES = 1_000_000_000
"""What a download leaves free on the disk."""

PIECE_BYTES = 1024 * 1024
TRIES = 6
"""Of one file without a new byte, before the download gives up."""
TIMEOUT_SECONDS = 60.0
PARTIAL_CONTENT = 206

LOCK_NAME = ".lock"
RECORD_NAME = ".hashed.json"


class _Hashed(msgspec.Struct, frozen=True):
    """A file with the right contents. Size and time of change tell whether anyone touched it."""

    size_bytes: int
    changed_nanoseconds: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Download:
    """The files of one revision, and the directory that they go to."""

    described: manifest.Checkpoint
    room: Path
    endpoint: str | None = None
    """Another server than huggingface.co; None for what the environment says."""
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, steps: Steps) -> Path:
        """Returns the directory with every file, whole; each file is a step.

        Raises BuildError: STORAGE before the first byte when there is no space, UNAVAILABLE for
        what the server or the network refuses, DATA for other contents than the manifest's, which
        are deleted.
        """
        with alone(self.room / LOCK_NAME, steps, "another download of this checkpoint"):
            missing = self.missing()
            if missing:
                self._check_space(sum(file.size_bytes - self._begun(file) for file in missing))
            for number, file in enumerate(missing, start=1):
                step = f"Fetching {file.path} ({number} of {len(missing)})"
                with steps.step(step, file.size_bytes) as advance:
                    self._fetch(file, advance)
            self._check_contents(steps)
        return self.room

    def missing(self) -> list[CheckpointFile]:
        """Returns the files that are still to be fetched, whole or in part."""
        return [file for file in self.described.files if not self._has(file)]

    def _has(self, file: CheckpointFile) -> bool:
        path = self.room / file.path
        return path.is_file() and path.stat().st_size == file.size_bytes

    def _check_contents(self, steps: Steps) -> None:
        """Hashes what has not been hashed before. Raises BuildError (DATA)."""
        record = self.room / RECORD_NAME
        done: dict[str, _Hashed] = {}
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            done = msgspec.json.decode(record.read_bytes(), type=dict[str, _Hashed])
        for file in self.described.files:
            path = self.room / file.path
            found = path.stat()
            good = _Hashed(found.st_size, found.st_mtime_ns, file.sha256)
            if done.get(file.path) == good or file.sha256 is None:
                continue
            with steps.step(f"Hashing {file.path}", file.size_bytes) as advance:
                sha256 = durable.sha256(path, advance)
            if (found.st_size, sha256) != (file.size_bytes, file.sha256):
                path.unlink()
                raise BuildError(
                    ExitCode.DATA,
                    f"{path}: has {found.st_size} bytes and sha256 {sha256}, the manifest says "
                    f"{file.size_bytes} bytes and sha256 {file.sha256}",
                    "It was deleted: run the same command again to fetch it again",
                )
            done[file.path] = good
            durable.write(record, msgspec.json.encode(done))

    def _check_space(self, needed_bytes: int) -> None:
        with durable.explained(self.room):
            self.room.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(self.room).free
        if free_bytes < needed_bytes + SPARE_BYTES:
            raise BuildError(
                ExitCode.STORAGE,
                f"{self.room}: {needed_bytes / 1e9:.1f} GB are to be fetched, "
                f"{free_bytes / 1e9:.1f} GB are free",
                "Free some space, or set GPT_OSS_STATE to a directory on a larger disk",
            )

    def _partial(self, file: CheckpointFile) -> Path:
        path = self.room / file.path
        return path.with_name(f".{path.name}.partial")

    def _begun(self, file: CheckpointFile) -> int:
        """Returns how many bytes of a file an earlier run has left."""
        try:
            found_bytes = self._partial(file).stat().st_size
        except FileNotFoundError:
            return 0
        return found_bytes if found_bytes < file.size_bytes else 0

    def _fetch(self, file: CheckpointFile, advance: Advance) -> None:
        """Fetches one file, trying again as long as bytes arrive. Raises BuildError."""
        # Here, because a build that has nothing to fetch needs no HTTP client.
        from huggingface_hub import errors

        where = f"{file.path} of {self.described.repository} at {self.described.revision}"
        advice = "Run the same command again to go on, or pass --checkpoint DIRECTORY"
        advance(self._begun(file))
        failures = 0
        while True:
            begun = self._begun(file)
            try:
                return self._receive(file, begun, advance)
            except errors.GatedRepoError:
                problem = "no access; accept the model's terms and set HF_TOKEN"
            except errors.RepositoryNotFoundError:
                problem = "the server knows no such repository, or HF_TOKEN may not see it"
            except errors.RevisionNotFoundError:
                problem = "the revision is gone"
            except errors.OfflineModeIsEnabled:
                problem = "not here, and HF_HUB_OFFLINE forbids to fetch it"
            except _failures() as error:
                problem = f"cannot be fetched: {_first_line(error)}"
                failures = 1 if self._begun(file) > begun else failures + 1
                if _may_pass(error) and failures < TRIES:
                    self.sleep(2.0 ** (failures - 1))
                    continue
            raise BuildError(ExitCode.UNAVAILABLE, f"{where}: {problem}", advice)

    def _receive(self, file: CheckpointFile, begin: int, advance: Advance) -> None:
        """Appends to what is there of a file until it is whole, and gives it its name.

        Raises what huggingface_hub and its client raise, BuildError (STORAGE) for the disk.
        """
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(
            self.described.repository,
            file.path,
            revision=self.described.revision,
            endpoint=self.endpoint,
        )
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        target, partial = self.room / file.path, self._partial(file)
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS
        ) as response:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            goes_on = begin > 0 and response.status_code == PARTIAL_CONTENT
            with durable.explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("ab" if goes_on else "wb") as written:
                    for piece in response.iter_bytes(PIECE_BYTES):
                        written.write(piece)
                        written.flush()
                        advance(len(piece))
                    os.fsync(written.fileno())
                partial.replace(target)
                durable.sync_directory(target.parent)


def _failures() -> type[Exception]:
    """Returns the HTTP client's own error: httpx2's, or httpx's before huggingface_hub 2."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(
        kind
        for kind in HfHubHTTPError.__mro__
        if kind.__name__ == "HTTPError" and issubclass(kind, Exception)
    )


def _may_pass(error: Exception) -> bool:
    """Tells whether another try can help: the network failed, or the server is busy or ill."""
    response = getattr(error, "response", None)
    return response is None or response.status_code == 429 or response.status_code >= 500


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
