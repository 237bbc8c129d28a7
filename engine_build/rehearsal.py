"""What a build or a fetch would do, without doing any of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine_build import fetch, space
from engine_build.build import finished
from engine_build.failure import BuildError
from engine_build.fetch import (
    CheckpointSource,
    CompactCheckpoint,
    ExpectedFile,
    PublishedCheckpoint,
)
from engine_build.place import State
from engine_build.profiles import formats
from engine_build.profiles.profile import Profile
from engine_build.proof import gate
from engine_build.resolve import ResolvedProfile
from model_assets import manifest
from serving.boundary.engine import Architecture


def of_fetch(
    described: manifest.CheckpointManifest,
    source: CheckpointSource,
) -> Iterator[str]:
    """Yields which files are here, which would be fetched, and how much space is free."""
    files = source.expected()
    missing = [file for file in files if not file.here]
    yield f"checkpoint: {described.repository} at {described.revision}"
    for file in files:
        yield f"  {file.path}: {_size(file.size_bytes)}, {'here' if file.here else _how(source)}"
    if not missing:
        yield f"fetch: nothing, {_total(files)} are here"
    elif isinstance(source, PublishedCheckpoint):
        free_bytes = space.free_bytes(source.directory)
        yield f"fetch: {_total(missing)} of {_total(files)} into {source.directory}"
        yield f"  {_size(free_bytes)} are free there"
    else:
        yield f"fetch: {_total(missing)} of {_total(files)} are missing, and the build would stop"


def of_build(
    resolved: ResolvedProfile,
    source: CheckpointSource,
    state: State,
    store: Path | None,
) -> Iterator[str]:
    """Yields each step of a build in order, with sizes; or that there is nothing to do."""
    profile = resolved.profile
    directory = state.engine(profile.name)
    try:
        fetch.check_runtime(profile)
    except BuildError as error:
        yield f"stops at once: {error}"
        yield "Elsewhere it would do this:"
    else:
        built = finished(profile, source, state)
        if built is not None:
            yield f"nothing: {directory} is up to date, digest {built.digest}"
            return
    yield from of_fetch(source.described, source)
    what = _total(source.expected())
    if isinstance(source, CompactCheckpoint):
        what = f"what {what} expand to"
    yield from _conversions(profile, fetch.architecture(source.described))
    yield f"place and hash: {what}, as links where links can be, in {directory}"
    if resolved.gate is not None:
        formats = resolved.gate.reference.precision
        yield (
            f"gate: {gate.words(profile.precision)}, against {gate.words(formats)}; "
            f"{gate.describe_limits(resolved.gate.limits)}"
        )
        for other in resolved.gate.fallbacks:
            yield f"  else {gate.words(other.precision)}"
    yield "golden prompts: run once and recorded"
    if store is not None:
        yield f"register: in BentoML's model store, {store}"


def _conversions(profile: Profile, sizes: Architecture) -> Iterator[str]:
    """Yields what would be written anew, with sizes."""
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build.weights import contents

    weights = profile.precision.weights
    if formats.converts(weights):
        size_bytes = contents.size_bytes(contents.whole(sizes, weights))
        yield f"convert: the weights to {weights}, {_size(size_bytes)}"
    if contents.is_cut(profile.runtime, profile.mesh):
        ranks = contents.cut(sizes, weights, profile.mesh)
        size_bytes = sum(map(contents.size_bytes, ranks.values()))
        yield f"cut: {len(ranks)} rank files, {_size(size_bytes)}"
        yield "compare: the ranks' logits with the whole model's"


def _how(source: CheckpointSource) -> str:
    return "to be fetched" if isinstance(source, PublishedCheckpoint) else "missing"


def _total(files: Sequence[ExpectedFile]) -> str:
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}, {_size(sum(file.size_bytes for file in files))}"


def _size(size_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit / 10:
            return f"{size_bytes / unit:,.2f} {name}"
    return f"{size_bytes:,} bytes"
