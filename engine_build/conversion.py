"""Converts published weights for an engine: to other number formats, to one file a rank.

All of it lies in one directory beside the engine until the engine is whole: links to the published
files, a ledger of those that are hashed, and the files that were written. A build that was killed
goes on from there. An engine that holds its checkpoint as published needs no conversion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from engine_build import assemble, durable, space
from engine_build.assemble import PlannedFile
from engine_build.fetch import Checkpoint
from engine_build.ledger import Ledger
from engine_build.profiles import formats
from engine_build.profiles.profile import Profile
from engine_build.progress import Steps
from engine_build.weights import contents, quantise, shard, tensors
from serving.boundary.engine import CHECKPOINT_DIRECTORY
from serving.hosting import machine


class ConversionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was made, for the build's report. `source` is the digest of the published files."""

    source: str
    quantised: tuple[quantise.QuantisationReport, ...]
    """One for each number format that was written: the asked-for one, a fallback."""
    sharded: tuple[shard.ShardingReport, ...]


class Conversion:
    """Makes the checkpoint of each profile that a build tries, once each."""

    def __init__(self, checkpoint: Checkpoint, directory: Path, steps: Steps) -> None:
        self._checkpoint = checkpoint
        self._directory = directory
        self._steps = steps
        self._source = ""
        self._quantised: dict[str, quantise.QuantisationReport] = {}
        self._sharded: dict[str, shard.ShardingReport] = {}

    def files(self, profile: Profile) -> tuple[PlannedFile, ...]:
        """Returns the files of a profile's engine, converted and cut as it asks for.

        Raises BuildError: DATA for a checkpoint that is not what it should be, STORAGE before the
        first byte when there is no space.
        """
        weights = profile.precision.weights
        is_cut = contents.is_cut(profile.runtime, profile.mesh)
        if not (is_cut or formats.converts(weights)):
            return self._checkpoint.files
        directory = self.whole(profile)
        made: dict[str, Path] = {}
        hashes: dict[str, str] = {}
        if formats.converts(weights):
            hashes = self._quantised[weights].files
            names = (*hashes, tensors.INDEX_NAME, tensors.CONFIG_NAME, quantise.REPORT_NAME)
            made = {name: directory / name for name in names}
        if is_cut:
            # Beside rank files, too, a report says what the conversion cost.
            kept = {name: path for name, path in made.items() if name == quantise.REPORT_NAME}
            directory, hashes = self._cut(profile, directory)
            names = (*hashes, tensors.CONFIG_NAME, shard.REPORT_NAME)
            made = kept | {name: directory / name for name in names}
        return (*_wanted(made, hashes), *self._unchanged(made))

    def whole(self, profile: Profile) -> Path:
        """Returns the directory of a profile's checkpoint, converted and not cut."""
        source = self._published()
        weights = profile.precision.weights
        if not formats.converts(weights):
            return source
        target = self._directory / weights
        if weights not in self._quantised:
            specs = contents.whole(self._checkpoint.architecture, weights)
            total_bytes = contents.size_bytes(specs)
            _check_space(target, total_bytes)
            with self._steps.step(f"Converting the weights to {weights}", total_bytes) as advance:
                self._quantised[weights] = quantise.quantise(
                    source, target, weights, self._source, workers=_workers(), advance=advance
                )
        return target

    def report(self) -> ConversionReport | None:
        """Returns what was made; None if nothing was."""
        if not self._source:
            return None
        return ConversionReport(
            source=self._source,
            quantised=tuple(self._quantised.values()),
            sharded=tuple(self._sharded.values()),
        )

    def clean_up(self) -> None:
        """Deletes the directory: the engine holds what it needs of it."""
        durable.remove(self._directory)

    def _published(self) -> Path:
        """Returns a directory of the published files, every byte hashed, every tensor checked.

        It is of links, so that a checkpoint on another disk is not copied to be read.
        """
        published = self._directory / "published"
        directory = published / CHECKPOINT_DIRECTORY
        if not self._source:
            total_bytes = sum(file.size_bytes for file in self._checkpoint.files)
            with self._steps.step("Hashing the published files", total_bytes) as advance:
                files = assemble.hashed(self._checkpoint.files, Ledger(self._directory), advance)
            assemble.link(self._checkpoint.files, published)
            with tensors.open_checkpoint(directory) as opened:
                tensors.check(directory, opened, self._checkpoint.architecture)
            self._source = durable.digest(msgspec.json.encode(files))
        return directory

    def _cut(self, profile: Profile, whole: Path) -> tuple[Path, dict[str, str]]:
        """Returns the directory of a profile's rank files, and the sha256 of each."""
        weights, mesh = profile.precision.weights, profile.mesh
        name = f"{weights}-tp{mesh.tensor_parallel}-ep{mesh.expert_parallel}"
        target = self._directory / name
        if name not in self._sharded:
            sizes = self._checkpoint.architecture
            ranks = contents.cut(sizes, weights, mesh)
            total_bytes = sum(map(contents.size_bytes, ranks.values()))
            _check_space(target, total_bytes)
            with self._steps.step(f"Writing {len(ranks)} rank files", total_bytes) as advance:
                self._sharded[name] = shard.shard(
                    whole,
                    target,
                    sizes,
                    f"{self._source} {weights}",
                    tensor_parallel=mesh.tensor_parallel,
                    expert_parallel=mesh.expert_parallel,
                    workers=_workers(),
                    advance=advance,
                )
        return target, self._sharded[name].files

    def _unchanged(self, made: Mapping[str, Path]) -> Iterator[PlannedFile]:
        """Yields the published files that no made one replaces."""
        for file in self._checkpoint.files:
            directory, _, name = file.path.rpartition("/")
            weights = name == tensors.INDEX_NAME or name.endswith(tensors.SUFFIX)
            if directory != CHECKPOINT_DIRECTORY or not (weights or name in made):
                yield file


def _check_space(target: Path, total_bytes: int) -> None:
    """Raises BuildError (STORAGE) unless what is still to be written fits."""
    done_bytes = sum(path.stat().st_size for path in target.glob(f"*{tensors.SUFFIX}"))
    space.check(target, max(0, total_bytes - done_bytes))


def _wanted(made: Mapping[str, Path], hashes: Mapping[str, str]) -> Iterator[PlannedFile]:
    for name, path in sorted(made.items()):
        place = f"{CHECKPOINT_DIRECTORY}/{name}"
        yield PlannedFile(place, path, path.stat().st_size, hashes.get(name))


def _workers() -> int:
    """Returns how many files to write at a time."""
    return machine.processors()
