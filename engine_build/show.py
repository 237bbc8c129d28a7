"""Engines as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from engine_build import manifest
from engine_build.place import State
from engine_build.proof import gate
from serving.boundary import engine
from serving.boundary.engine import MANIFEST_NAME, Engine, EngineError


def table(directory: Path, found: Engine) -> Table:
    """Returns what an engine is, one row a fact."""
    rows = Table(show_header=False, box=None, title=str(directory), title_justify="left")
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in (*_facts(found), *_conversion(directory, found), *_files(found)):
        rows.add_row(name, value)
    return rows


def _conversion(directory: Path, found: Engine) -> Iterator[tuple[str, str]]:
    # Here, because numpy takes a while and what only lists engines needs none.
    from engine_build.weights import quantise

    path = f"{engine.CHECKPOINT_DIRECTORY}/{quantise.REPORT_NAME}"
    if any(file.path == path for file in found.files):
        yield "conversion", quantise.describe(quantise.read(directory / path))


def _files(found: Engine) -> Iterator[tuple[str, str]]:
    for file in found.files:
        yield "file", f"{file.path}, {file.size_bytes:,} bytes, sha256 {file.sha256}"


def _facts(found: Engine) -> Iterator[tuple[str, str]]:
    model, mesh, limits, cache = found.model, found.mesh, found.limits, found.kv_cache
    stand_in = " (a stand-in, not the real model)" if model.stand_in else ""
    yield "name", found.name
    yield "digest", found.digest
    yield "model", f"{model.name}{stand_in}"
    yield "checkpoint", f"{model.repository} at {model.revision}"
    yield "runtime", f"{found.runtime} {found.runtime_version}"
    yield "device", f"{found.device.count} x {found.device.kind}"
    yield "mesh", f"TP {mesh.tensor_parallel}, EP {mesh.expert_parallel}"
    yield (
        "precision",
        f"weights {found.precision.weights}, activations {found.precision.activations}, "
        f"KV cache {found.precision.kv_cache}",
    )
    yield (
        "limits",
        f"max_batch_size {limits.max_batch_size}, max_num_tokens {limits.max_num_tokens}, "
        f"max_seq_len {limits.max_seq_len}",
    )
    size = f"{cache.max_tokens} tokens"
    if cache.max_tokens is None:
        size = f"{cache.free_memory_fraction} of the free memory"
    yield "KV cache", f"{size} in blocks of {cache.block_tokens}"
    sizes = ", ".join(map(str, found.cuda_graphs.batch_sizes))
    yield "CUDA graphs", sizes or "none"
    for line in verdict(found):
        yield "gate", line
    yield "golden prompts", ", ".join(golden.name for golden in found.golden) or "none"


def verdict(found: Engine) -> Iterator[str]:
    """Yields what the build measured of precision, one line a comparison."""
    if not found.gate:
        return
    for one in found.gate.comparisons:
        end = "passed" if one.passed else f"not passed; built with {gate.words(found.precision)}"
        yield f"{gate.describe(one)}, against {gate.words(found.gate.reference)}: {end}"


def overview(state: State, store: Path) -> Table:
    """Returns all engines on this machine, one row each; a damaged one says what is wrong."""
    rows = Table("engine", "runtime", "device", "size", "where", box=None)
    for directory in _directories(state, store):
        try:
            found = engine.read(directory)
        except EngineError as error:
            rows.add_row(directory.name, "-", "-", "-", str(error))
            continue
        rows.add_row(
            f"{found.name}:{found.digest[:16]}",
            found.runtime,
            f"{found.device.count} x {found.device.kind}",
            f"{manifest.size_bytes(found) / 1e6:,.0f} MB",
            str(directory),
        )
    return rows


def _directories(state: State, store: Path) -> Iterator[Path]:
    for path in sorted((state.root / "engines").glob(f"[!.]*/{MANIFEST_NAME}")):
        yield path.parent
    for path in sorted(store.glob(f"*/*/{MANIFEST_NAME}")):
        yield path.parent
