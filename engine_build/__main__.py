"""The command line: `python -m engine_build build | plan | inspect | verify | list | find`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine_build import fetch, golden, place, plan, show
from engine_build.build import Outcome
from engine_build.build import build as run_build
from engine_build.failure import BuildError, ExitCode
from engine_build.find import find
from engine_build.progress import Steps
from engine_build.settle import Settled, make_plan, settle
from serving import engine
from serving.engine import EngineError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turns a GPT-OSS checkpoint into an engine: a directory that the service serves.",
)
ProfileName = Annotated[str, typer.Argument(help="A profile in config/engines/, or a YAML file.")]
Purpose = Annotated[
    str | None, typer.Option("--for", help="An overlay in config/overlays/, as `latency`.")
]
EngineName = Annotated[str, typer.Argument(help="A directory, an engine's name, or NAME:VERSION.")]


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
    purpose: Purpose = None,
) -> None:
    """Builds the engine of a profile; does nothing when it is built already."""
    started = time.monotonic()
    try:
        outcome = _build(settle(name, purpose), checkpoint, publish, force)
    except KeyboardInterrupt:
        advice = "Run the same command again to go on"
        raise BuildError(ExitCode.INTERRUPTED, "interrupted", advice) from None
    how = f"built in {time.monotonic() - started:.1f} s" if outcome.worked else "up to date"
    for line in show.verdict(outcome.engine):
        typer.echo(line)
    typer.echo(f"Engine {outcome.tag or outcome.engine.name}: {how}, {outcome.directory}")


def _build(wanted: Settled, checkpoint: Path | None, publish: bool, force: bool) -> Outcome:
    return run_build(
        wanted.profile,
        fetch.choose(wanted.profile, checkpoint, place.state()),
        place.state(),
        Steps(Console(stderr=True)),
        store=place.model_store() if publish else None,
        record=golden.record,
        gate=wanted.gate,
        force=force,
    )


@app.command(name="plan")
def plan_memory(name: ProfileName, purpose: Purpose = None) -> None:
    """Shows what an engine for GPUs would hold in their memory; needs neither GPU nor weights."""
    for line in plan.lines(make_plan(settle(name, purpose).profile)):
        typer.echo(line)


@app.command()
def inspect(name: EngineName) -> None:
    """Shows what an engine is."""
    directory = find(name, place.state(), place.model_store())
    Console().print(show.table(directory, engine.read(directory)))


@app.command()
def verify(
    name: EngineName,
    run: Annotated[bool, typer.Option(help="Also run the golden prompts again.")] = False,
) -> None:
    """Hashes every file of an engine and names the first that has changed."""
    directory = find(name, place.state(), place.model_store())
    steps = Steps(Console(stderr=True))
    total_bytes = sum(file.size_bytes for file in engine.read(directory).files)
    with steps.step("Hashing the engine's files", total_bytes) as advance:
        found = show.verify(directory, advance)
    if run:
        with steps.step("Running the engine on the golden prompts"):
            golden.check(directory, found)
    typer.echo(f"{directory}: sound, digest {found.digest}")


@app.command(name="find")
def find_engine(name: EngineName) -> None:
    """Prints the directory of an engine."""
    typer.echo(find(name, place.state(), place.model_store()).absolute())


@app.command(name="list")
def list_engines() -> None:
    """Lists the engines on this machine: those built here, and those in the model store."""
    Console().print(show.overview(place.state(), place.model_store()))


def main() -> None:
    """Runs the command line; a failure is one line and an exit code of engine_build.failure."""
    try:
        app()
    except BuildError as error:
        _fail(str(error), error.exit_code)
    except EngineError as error:
        _fail(str(error), ExitCode.DATA)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
