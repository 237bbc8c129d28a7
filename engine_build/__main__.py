"""The command line, `python -m engine_build`: builds; engine_commands has the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine_build import engine_commands, fetch, place, rehearsal, show
from engine_build.build import Outcome, finished
from engine_build.build import build as run_build
from engine_build.failure import BuildError, ExitCode
from engine_build.find import find
from engine_build.profiles import plan
from engine_build.profiles import profile as profiles
from engine_build.progress import Steps
from engine_build.proof import golden
from engine_build.resolve import ResolvedProfile, cpu_lines, make_plan, resolve
from serving.boundary.engine import EngineError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turns a GPT-OSS checkpoint into an engine: a directory that the service serves.",
)
ProfileName = Annotated[str, typer.Argument(help="A profile in config/engines/, or a YAML file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Purpose = Annotated[
    str | None, typer.Option("--for", help="An overlay in config/overlays/, as `latency`.")
]


@app.command()
def build(
    name: ProfileName,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A directory with the checkpoint's files.")
    ] = None,
    publish: Annotated[
        bool, typer.Option(help="Register the engine in BentoML's model store.")
    ] = True,
    force: Annotated[bool, typer.Option(help="Build even when nothing has changed.")] = False,
    dry_run: DryRun = False,
    purpose: Purpose = None,
) -> None:
    """Builds the engine of a profile; does nothing when it is built already."""
    started = time.monotonic()
    resolved = resolve(name, purpose)
    for note in resolved.notes:
        typer.echo(note)
    if dry_run:
        store = place.model_store() if publish else None
        source = fetch.find(resolved.profile, checkpoint, place.state())
        for line in rehearsal.of_build(resolved, source, place.state(), store):
            typer.echo(line)
        return
    with _resumable():
        outcome = _build(resolved, checkpoint, publish, force)
    how = f"built in {time.monotonic() - started:.1f} s" if outcome.worked else "up to date"
    for line in show.verdict(outcome.engine):
        typer.echo(line)
    typer.echo(f"Engine {outcome.tag or outcome.engine.name}: {how}, {outcome.directory}")


@app.command()
def obtain(name: Annotated[str, typer.Argument(help="As of `find`, or a profile's name.")]) -> None:
    """Prints the directory of an engine. One for a CPU is built first, where it is not here yet."""
    try:
        directory = find(name, place.state(), place.model_store())
    except BuildError:
        if name not in profiles.names():
            raise
        directory = _obtain(resolve(name, None))
    typer.echo(directory.absolute())


def _obtain(wanted: ResolvedProfile) -> Path:
    name, device = wanted.profile.name, wanted.profile.device
    if device.kind != "cpu":
        raise BuildError(
            ExitCode.UNAVAILABLE,
            f"{name} is not built yet, and an engine for GPUs is not built on the way to serving",
            f"Say `python -m engine_build build {name}` on a machine with {device.count} x "
            f"{device.kind}",
        )
    for line in cpu_lines(wanted):
        typer.echo(line, err=True)
    with _resumable():
        return _build(wanted, None, publish=False, force=False).directory


def _build(wanted: ResolvedProfile, checkpoint: Path | None, publish: bool, force: bool) -> Outcome:
    source, state = fetch.choose(wanted.profile, checkpoint, place.state()), place.state()
    # What this repository holds is some megabytes.
    if wanted.profile.device.kind == "cpu" and not isinstance(source, fetch.CompactCheckpoint):
        # Here, because numpy takes a while and a build that has nothing to do needs none.
        from engine_build import preflight

        if force or finished(wanted.profile, source, state) is None:
            preflight.check(wanted, source, state)
    return run_build(
        wanted.profile,
        source,
        state,
        Steps(Console(stderr=True)),
        store=place.model_store() if publish else None,
        record=golden.record,
        gate=wanted.gate,
        force=force,
    )


@app.command(name="fetch")
def fetch_checkpoint(
    name: ProfileName,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A directory with the files: they are only hashed.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Fetches and hashes the checkpoint of a profile; needs no GPU and no runtime."""
    described = fetch.describe(resolve(name, None).profile)
    source = fetch.locate(described, checkpoint, place.state())
    if dry_run:
        for line in rehearsal.of_fetch(described, source):
            typer.echo(line)
        return
    with _resumable():
        directory = source.obtain(Steps(Console(stderr=True)))
    typer.echo(f"{described.name}: whole, every file as its manifest says, in {directory}")


@contextmanager
def _resumable() -> Iterator[None]:
    """Says how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        advice = "Run the same command again to go on"
        raise BuildError(ExitCode.INTERRUPTED, "interrupted", advice) from None


@app.command(name="plan")
def plan_memory(name: ProfileName, purpose: Purpose = None) -> None:
    """Shows what an engine would hold in memory; needs neither GPU nor weights."""
    wanted = resolve(name, purpose)
    if wanted.profile.device.kind != "cpu":
        for line in (*wanted.notes, *plan.lines(make_plan(wanted.profile))):
            typer.echo(line)
        return
    for line in cpu_lines(wanted):
        typer.echo(line)
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build import preflight

    for line in preflight.memory(wanted):
        raise BuildError(ExitCode.UNAVAILABLE, f"{wanted.profile.name} does not fit here: {line}")


engine_commands.register(app)


def main() -> None:
    """Runs the command line; a failure is one line and an exit code of engine_build.failure."""
    try:
        app()
    except BuildError as error:
        _fail(str(error), error.exit_code)
    except EngineError as error:
        _fail(str(error), ExitCode.DATA)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(named, ExitCode.STORAGE)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
