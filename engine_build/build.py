"""The steps of a build, in order. Each leaves its result on disk, so the next run goes on there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from engine_build import assemble, durable, manifest, publish
from engine_build import gate as gates
from engine_build.fetch import Checkpoint
from engine_build.occupancy import alone, swap
from engine_build.place import State
from engine_build.profile import Profile
from engine_build.progress import Step, Steps
from serving import engine
from serving.engine import Engine, EngineError, Gate, Golden

RECIPE = 1
"""Raised when the steps below make another engine of the same inputs."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a build leaves beside its engine for people and machines. No part of the engine."""

    inputs: str
    """Hash of everything that the engine is made of: equal inputs need no second build."""
    digest: str
    tag: str | None
    size_bytes: int
    steps: tuple[Step, ...]
    gate: Gate | None = None
    """What was measured of the engine's precision, as in its manifest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the engine is, what it is, its tag in the model store, and whether work was done."""

    directory: Path
    engine: Engine
    tag: str | None
    worked: bool


class Source(Protocol):
    """Where a checkpoint comes from, and what runs its engine."""

    @property
    def runtime_version(self) -> str:
        """Which runtime the engine will run on; another version is another engine."""
        ...

    @property
    def identity(self) -> str:
        """Changes with what the checkpoint holds. Cheap: no file of weights is read."""
        ...

    def fetch(self, steps: Steps) -> Checkpoint:
        """Returns the checkpoint on this machine. Raises BuildError when it cannot be had."""
        ...

    def forget(self) -> None:
        """Deletes what `fetch` made, now that the engine holds it."""
        ...


Record = Callable[[Path, Engine], tuple[Golden, ...]]
"""Runs the engine of a directory on the golden prompts."""


def build(
    profile: Profile,
    source: Source,
    state: State,
    steps: Steps,
    *,
    store: Path | None,
    record: Record,
    gate: gates.Wanted | None = None,
    force: bool = False,
) -> Outcome:
    """Makes the engine of a profile, or finds it made; returns where it is.

    `store` is BentoML's model store, or None to leave the engine out of it; `gate` is what the
    profile's precision is compared with, None to take it as asked for; `force` builds even when
    nothing has changed. Raises BuildError. Killed at any point and run again, it finishes.
    """
    directory = state.engine(profile.name)
    inputs = _inputs(profile, source)
    with alone(state.lock(profile.name), steps):
        found = None if force else _finished(profile.name, state, inputs)
        worked = found is None
        if found is None:
            built = _make(profile, source, state, steps, record, gate)
        else:
            built = found
            _tidy(profile.name, state)
        tag = None
        if store is not None and (force or not publish.published(built, store)):
            with steps.step("Registering the engine in BentoML's model store"):
                tag = publish.publish(directory, store, replace=force)
            worked = True
        elif store is not None:
            tag = publish.publish(directory, store)
        if worked:
            _write_report(state.report(profile.name), built, inputs, tag, steps)
    return Outcome(directory, built, tag, worked)


def finished(profile: Profile, source: Source, state: State) -> Engine | None:
    """Returns the engine if a build of this profile would have nothing to do."""
    return _finished(profile.name, state, _inputs(profile, source))


def _make(
    profile: Profile,
    source: Source,
    state: State,
    steps: Steps,
    record: Record,
    gate: gates.Wanted | None,
) -> Engine:
    """Assembles, runs and seals the engine in the work directory, then gives it its place."""
    work = state.work(profile.name)
    checkpoint = source.fetch(steps)
    total_bytes = sum(file.size_bytes for file in checkpoint.files)
    with steps.step("Placing and hashing the engine's files", total_bytes) as advance:
        files = assemble.assemble(checkpoint.files, work, advance)

    def compose(chosen: Profile) -> Engine:
        return manifest.compose(
            chosen, checkpoint.model, checkpoint.architecture, source.runtime_version, files
        )

    draft = compose(profile)
    manifest.write(work, draft)
    if gate is not None:
        with steps.step("Comparing the engine with its reference precision"):
            draft = gates.choose(profile, gate, work, state.reference(profile.name), compose)
    with steps.step("Running the engine on the golden prompts"):
        built = manifest.with_golden(draft, record(work, draft))
    manifest.write(work, built)
    swap(work, state.engine(profile.name), state.replaced(profile.name))
    assemble.forget(state.engine(profile.name))
    source.forget()
    return built


def _finished(name: str, state: State, inputs: str) -> Engine | None:
    """Returns the engine that an earlier build made of the same inputs, None if there is none."""
    try:
        earlier = msgspec.json.decode(state.report(name).read_bytes(), type=Report)
        built = engine.read(state.engine(name))
    except (FileNotFoundError, msgspec.MsgspecError, EngineError):
        return None
    return built if earlier.inputs == inputs and earlier.digest == built.digest else None


def _tidy(name: str, state: State) -> None:
    """Deletes what a build that was killed left beside the finished engine."""
    assemble.forget(state.engine(name))
    for left in (state.work(name), state.replaced(name), state.reference(name)):
        durable.remove(left)


def _inputs(profile: Profile, source: Source) -> str:
    """Returns a hash of everything that determines the engine."""
    parts = [RECIPE, engine.SCHEMA_VERSION, profile.model_dump(mode="json")]
    parts += [source.identity, source.runtime_version]
    return durable.digest(msgspec.json.encode(parts, order="deterministic"))


def _write_report(report: Path, built: Engine, inputs: str, tag: str | None, steps: Steps) -> None:
    content = Report(
        inputs=inputs,
        digest=built.digest,
        tag=tag,
        size_bytes=sum(file.size_bytes for file in built.files),
        steps=tuple(steps.done),
        gate=built.gate or None,
    )
    durable.write(report, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
