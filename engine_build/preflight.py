"""What this machine lacks for an engine on its CPU, found before the first byte is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from engine_build import space
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import GivenCheckpoint, PublishedCheckpoint
from engine_build.place import State
from engine_build.profiles.architecture_bytes import gb
from engine_build.resolve import ResolvedProfile, building_bytes, plan_cpu
from serving.hosting import machine

COMPILER = "gcc"
"""As serving/engines/embedded/native/library.py calls it."""


def check(resolved: ResolvedProfile, source: GivenCheckpoint, state: State) -> None:
    """Raises BuildError (UNAVAILABLE) that names everything that is missing."""
    missing = list(lacks(resolved, source, state))
    if missing:
        raise BuildError(
            ExitCode.UNAVAILABLE,
            f"{resolved.profile.name} cannot be built here: {'; '.join(missing)}",
            f"Nothing was fetched. See `python -m engine_build plan {resolved.profile.name}`",
        )


def lacks(resolved: ResolvedProfile, source: GivenCheckpoint, state: State) -> Iterator[str]:
    """Yields what is missing of memory, disk, compiler and network."""
    plan = plan_cpu(resolved.profile)
    yield from memory(resolved)
    if plan.needs_compiler and shutil.which(COMPILER) is None:
        yield f"there is no {COMPILER}, without which weights take several times the memory"
    needed_bytes = max(0, plan.converted - _held_bytes(state.conversion(plan.profile)))
    fetches = isinstance(source, PublishedCheckpoint) and bool(source.download().missing())
    if isinstance(source, PublishedCheckpoint) and fetches:
        needed_bytes += source.download().missing_bytes()
    needed_bytes += space.SPARE_BYTES
    free_bytes = space.free_bytes(state.root)
    if free_bytes < needed_bytes:
        yield (
            f"disk: {gb(needed_bytes)} are needed in {state.root}, which "
            f"GPT_OSS_STATE names, {gb(free_bytes)} are free"
        )
    if isinstance(source, PublishedCheckpoint) and fetches:
        # Here, because a build that has nothing to fetch needs no HTTP client.
        from engine_build.hub import HubError

        try:
            source.download().reach()
        except HubError as error:
            if error.wait_seconds is None:
                yield f"network: {source.described.repository}: {error}"


def memory(resolved: ResolvedProfile) -> Iterator[str]:
    """Yields how much memory is missing for the build, if any is."""
    needed_bytes = building_bytes(resolved)
    free_bytes, total_bytes = machine.available_bytes(), machine.memory_bytes()
    if free_bytes < needed_bytes:
        yield (
            f"memory: {gb(needed_bytes)} are needed at most, {gb(free_bytes)} of "
            f"{gb(total_bytes)} are free"
        )


def _held_bytes(directory: Path) -> int:
    return sum(
        path.stat().st_size for path in directory.rglob("*.safetensors") if not path.is_symlink()
    )
