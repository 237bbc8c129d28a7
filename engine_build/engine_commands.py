"""The commands on engines that exist: inspect, verify, tune, publish, export, import, diff."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine_build import (
    archive,
    difference,
    durable,
    manifest,
    place,
    publish,
    show,
    tune,
    verification,
)
from engine_build.find import find
from engine_build.locking import locked
from engine_build.progress import Steps
from serving.boundary import engine

EngineName = Annotated[str, typer.Argument(help="A directory, an engine's name, or NAME:VERSION.")]
Archive = Annotated[Path, typer.Argument(help="A tar file.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to a command line, in the order in which help lists them."""
    for name, command in (
        ("inspect", inspect),
        ("verify", verify),
        ("tune", tune_engine),
        ("calibrate", calibrate),
        ("publish", publish_engine),
        ("export", export),
        ("import", import_engine),
        ("diff", diff),
        ("find", find_engine),
        ("list", list_engines),
    ):
        app.command(name=name)(command)


def inspect(name: EngineName) -> None:
    """Shows what an engine is."""
    directory = _find(name)
    Console().print(show.table(directory, engine.read(directory)))


def verify(
    name: EngineName,
    run: Annotated[
        bool, typer.Option(help="Also run the golden prompts again, and measure how fast it is.")
    ] = False,
) -> None:
    """Hashes every file of an engine and names the first that has changed."""
    directory = _find(name)
    steps = _steps()
    total_bytes = manifest.size_bytes(engine.read(directory))
    with steps.step("Hashing the engine's files", total_bytes) as advance:
        found = verification.check(directory, advance)
    if run:
        where = verification.path(place.state(), found.name)
        measured = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        with steps.step("Running the engine on the golden prompts, and measuring it"):
            report = verification.run(directory, found, measured)
        for line in verification.lines(report, verification.keep(report, where)):
            typer.echo(line)
        typer.echo(f"Report: {where}")
    typer.echo(f"{directory}: sound, digest {found.digest}")


def tune_engine(
    name: EngineName,
    compare: Annotated[
        bool, typer.Option(help="Start it once more afterwards, and show the difference.")
    ] = True,
) -> None:
    """Starts an engine, runs the shapes that it will serve, and keeps what its runtime tunes."""
    directory = _find(name)
    built = engine.read(directory)
    state, steps = place.state(), _steps()
    with locked(state.lock(built.name), steps):
        report = tune.tune(directory, compare=compare, note=steps.console.print)
        durable.write_json(state.tuning(built.name), report)
        store = place.model_store()
        if publish.published(built, store):
            publish.carry_cache(directory, store)
    for line in tune.lines(report):
        typer.echo(line)
    typer.echo(f"Report: {state.tuning(built.name)}")


def calibrate(name: EngineName) -> None:
    """Measures the largest numbers that come to the experts, with the calibration set, on a CPU."""
    # Here, because torch takes a while and the other commands need none.
    from engine_build.weights import calibration

    directory = _find(name)
    built = engine.read(directory)
    with _steps().step("Running the calibration set"):
        found = calibration.calibrate(directory, built)
    path = place.state().calibration(built.name)
    durable.write_json(path, found)
    typer.echo(
        f"{path}: the largest number that came to an expert is {max(found.largest.values()):.4g}, "
        f"in {found.prompts} prompts of {found.tokens} tokens"
    )


def publish_engine(
    name: EngineName,
    force: Annotated[bool, typer.Option(help="Replace a sound entry, too.")] = False,
) -> None:
    """Puts an engine into BentoML's model store."""
    store = place.model_store()
    with _steps().step("Registering the engine in BentoML's model store"):
        tag = publish.publish(_find(name), store, replace=force)
    typer.echo(f"{tag}: {store}")


def export(name: EngineName, file: Archive) -> None:
    """Writes an engine into one tar file, for a machine without a network."""
    directory = _find(name)
    total_bytes = manifest.size_bytes(engine.read(directory))
    with _steps().step("Hashing and packing the engine's files", total_bytes) as advance:
        built = archive.export(directory, file, advance)
    typer.echo(f"{file}: {built.name}, digest {built.digest}, {file.stat().st_size:,} bytes")


def import_engine(
    file: Archive,
    force: Annotated[bool, typer.Option(help="Replace the engine if it is here already.")] = False,
) -> None:
    """Makes the engine of a tar file one of this machine; its files are hashed on the way."""
    directory, new = archive.import_engine(file, place.state(), _steps(), force=force)
    typer.echo(f"{directory}: {'imported' if new else 'here already'}")


def diff(one: EngineName, other: EngineName) -> None:
    """Says in what two engines differ; exit code 1 when they do."""
    lines = difference.differences(*(engine.read(_find(name)) for name in (one, other)))
    for line in lines:
        typer.echo(line)
    if lines:
        raise typer.Exit(1)
    typer.echo("The engines are the same")


def find_engine(name: EngineName) -> None:
    """Prints the directory of an engine."""
    typer.echo(_find(name).absolute())


def list_engines() -> None:
    """Lists the engines on this machine: those built here, and those in the model store."""
    Console().print(show.overview(place.state(), place.model_store()))


def _find(name: str) -> Path:
    return find(name, place.state(), place.model_store())


def _steps() -> Steps:
    return Steps(Console(stderr=True))
