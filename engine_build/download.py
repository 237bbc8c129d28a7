"""Fetches a published checkpoint from Hugging Face: the pinned revision, the needed files alone.

Interrupted downloads go on where they stopped. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are
respected, as huggingface_hub does. Contents are hashed where every checkpoint's are: on assembly.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from model_assets import manifest
from model_assets.manifest import CheckpointFile

SPARE_BYTES = 1_000_000_000
"""What a download leaves free on the disk."""


@dataclass(frozen=True, slots=True)
class Download:
    """The files of one revision, and the directory that they go to."""

    described: manifest.Checkpoint
    room: Path
    endpoint: str | None = None
    """Another server than huggingface.co; None for what the environment says."""

    def fetch(self, note: Callable[[str], None]) -> Path:
        """Returns the directory with every file, whole; `note` is told of each that is fetched.

        Raises BuildError: STORAGE before the first byte when there is no space, UNAVAILABLE for
        what the server or the network refuses.
        """
        missing = [file for file in self.described.files if not self._has(file)]
        if missing:
            self._check_space(sum(file.size_bytes for file in missing))
        for number, file in enumerate(missing, start=1):
            note(f"Fetching {file.path} ({number} of {len(missing)})")
            self._fetch(file)
        return self.room

    def _has(self, file: CheckpointFile) -> bool:
        path = self.room / file.path
        return path.is_file() and path.stat().st_size == file.size_bytes

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

    def _fetch(self, file: CheckpointFile) -> None:
        # Here, because a build that has nothing to fetch needs no HTTP client.
        import httpx
        from huggingface_hub import errors, hf_hub_download

        where = f"{file.path} of {self.described.repository} at {self.described.revision}"
        advice = "Run the same command again, or pass --checkpoint DIRECTORY"
        try:
            hf_hub_download(
                self.described.repository,
                file.path,
                revision=self.described.revision,
                local_dir=self.room,
                endpoint=self.endpoint,
            )
        except errors.GatedRepoError:
            message = f"{where}: no access; accept the model's terms and set HF_TOKEN"
        except errors.RepositoryNotFoundError:
            message = f"{where}: the server knows no such repository, or HF_TOKEN may not see it"
        except errors.RevisionNotFoundError:
            message = f"{where}: the revision is gone"
        except errors.EntryNotFoundError as error:
            message = f"{where}: cannot be fetched: {_first_line(error)}"
        except (errors.HfHubHTTPError, httpx.HTTPError) as error:
            message = f"{where}: cannot be fetched: {_first_line(error)}"
        except OSError as error:
            raise BuildError(ExitCode.STORAGE, f"{where}: {_first_line(error)}", advice) from error
        else:
            return
        raise BuildError(ExitCode.UNAVAILABLE, message, advice)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
