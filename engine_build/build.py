"""The steps of a build, in order. Each leaves its result on disk, so the next run goes on there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine_build import assemble, durable, manifest, publish
from engine_build.fetch import Checkpoint
from engine_build.locking import locked, swap
from engine_build.place import State
from engine_build.profiles.profile import Profile
from engine_build.progress import Steps
from engine_build.proof import gate as gates
from engine_build.proof import ranks
from serving.boundary import engine
from serving.boundary.engine import Engine, EngineError, Golden

if TYPE_CHECKING:
    from engine_build.report import NewEngine

RECIPE = 1
"""Raised when the steps below make another engine of the same inputs."""


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

    def clean_up(self) -> None:
        """Deletes what `fetch` made, now that the engine holds it."""
        ...


Record = Callable[[Path, Engine], tuple[Golden, ...]]
"""Runs the engine of a directory on the golden prompts."""

Compare = Callable[[Path, Path, Engine], ranks.RankComparison]
"""Compares the rank files of an engine's directory with the checkpoint of another."""


def build(
    profile: Profile,
    source: Source,
    state: State,
    steps: Steps,
    *,
    store: Path | None,
    record: Record,
    compare: Compare = ranks.compare,
    gate: gates.PrecisionGate | None = None,
    force: bool = False,
) -> Outcome:
    """Makes the engine of a profile, or finds it made; returns where it is.

    `store` is BentoML's model store, or None to leave the engine out of it; `gate` is what the
    profile's precision is compared with, None to take it as asked for; `force` builds even when
    nothing has changed. Raises BuildError. Killed at any point and run again, it finishes.
    """
    directory = state.engine(profile.name)
    inputs = _inputs(profile, source)
    with locked(state.lock(profile.name), steps):
        built = None if force else _finished(profile.name, state, inputs)
        made = None
        if built is None:
            made = _make(profile, source, state, steps, record, compare, gate)
            built = made.engine
        else:
            _tidy(profile.name, state)
        worked, tag = made is not None, None
        if store is not None:
            tag, registered = _register(directory, built, store, steps, force)
            worked = worked or registered
        if worked:
            _report(state.report(profile.name), made, built, inputs, tag, steps)
    return Outcome(directory, built, tag, worked)


def _register(
    directory: Path, built: Engine, store: Path, steps: Steps, force: bool
) -> tuple[str, bool]:
    """Returns the engine's tag in the store, and whether it had to be put there."""
    if publish.published(built, store) and not force:
        return publish.publish(directory, store), False
    with steps.step("Registering the engine in BentoML's model store"):
        return publish.publish(directory, store, replace=force), True


def _report(
    path: Path, made: NewEngine | None, built: Engine, inputs: str, tag: str | None, steps: Steps
) -> None:
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build import report

    report.write(path, made or report.NewEngine(built), inputs, tag, steps.done)


def finished(profile: Profile, source: Source, state: State) -> Engine | None:
    """Returns the engine if a build of this profile would have nothing to do."""
    return _finished(profile.name, state, _inputs(profile, source))


def _make(
    profile: Profile,
    source: Source,
    state: State,
    steps: Steps,
    record: Record,
    compare: Compare,
    gate: gates.PrecisionGate | None,
) -> NewEngine:
    """Converts, assembles, runs and seals the engine in the work directory, then gives it its
    place."""
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build.conversion import Conversion
    from engine_build.report import NewEngine
    from engine_build.weights import contents
    from engine_build.workbench import Workbench

    work = state.work(profile.name)
    checkpoint = source.fetch(steps)
    conversion = Conversion(checkpoint, state.conversion(profile.name), steps)
    workbench = Workbench(work, checkpoint, source.runtime_version, conversion, steps)
    golden, compared = None, None
    if gate is None:
        draft = workbench.make(profile)
    else:
        choice = gates.choose(profile, gate, workbench, state.reference(profile.name))
        draft, golden = choice.engine, choice.golden
    if contents.is_cut(profile.runtime, profile.mesh):
        with steps.step("Comparing the ranks' logits with the whole model's"):
            compared = compare(work, conversion.whole(profile), draft)
    if golden is None:
        with steps.step("Running the engine on the golden prompts"):
            golden = record(work, draft)
    built = manifest.with_golden(draft, golden)
    manifest.write(work, built)
    swap(work, state.engine(profile.name), state.replaced(profile.name))
    assemble.remove_ledger(state.engine(profile.name))
    made = NewEngine(built, conversion.report(), compared)
    conversion.clean_up()
    source.clean_up()
    return made


def _finished(name: str, state: State, inputs: str) -> Engine | None:
    """Returns the engine that an earlier build made of the same inputs, None if there is none."""
    try:
        built = engine.read(state.engine(name))
    except EngineError:
        return None
    earlier = durable.read_json(state.report(name), _Earlier)
    return built if earlier == _Earlier(inputs, built.digest) else None


class _Earlier(msgspec.Struct, frozen=True):
    """What of an earlier build's report says whether there is anything to do."""

    inputs: str
    digest: str


def _tidy(name: str, state: State) -> None:
    """Deletes what a build that was killed left beside the finished engine."""
    assemble.remove_ledger(state.engine(name))
    beside = (state.work, state.replaced, state.reference, state.conversion)
    for left in beside:
        durable.remove(left(name))


def _inputs(profile: Profile, source: Source) -> str:
    """Returns a hash of everything that determines the engine."""
    parts = [RECIPE, engine.SCHEMA_VERSION, profile.model_dump(mode="json")]
    parts += [source.identity, source.runtime_version]
    return durable.digest(msgspec.json.encode(parts, order="deterministic"))
