"""One step of an engine build in a process of its own, so that its memory is its own.

`python -m benchmarks.build_step STEP SOURCE TARGET MODEL LAYERS WORKERS` runs it on a synthetic
checkpoint and prints what it took as JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine_build import assemble, durable
from engine_build.assemble import PlannedFile
from engine_build.weights import quantise, shard, tensors
from model_assets import manifest
from model_assets.development.shape import Shape

MESH = 2
"""Tensor and expert parallel ranks of the `shard` step, as in the default profile."""


class StepCost(msgspec.Struct, frozen=True):
    """What a step took. `seconds` leaves the start of Python out."""

    seconds: float
    peak_bytes: int
    written_bytes: int
    note: str = ""


def shape(model: str, layers: int) -> Shape:
    """Returns the architecture of a model with fewer layers."""
    whole = manifest.read(model).architecture
    return msgspec.structs.replace(whole, num_hidden_layers=layers)


def verify(source: Path, _target: Path, sizes: Shape, workers: int) -> str:
    """Checks every tensor's place, dtype and shape, and hashes every file."""
    with tensors.open_checkpoint(source) as opened:
        tensors.check(source, opened, sizes)
    with ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(durable.sha256, sorted(source.iterdir())))
    return f"{len(digests)} files"


def place(source: Path, target: Path, _sizes: Shape, _workers: int) -> str:
    """Puts the files into an engine directory, hashed, with a record for the manifest."""
    wanted = [
        PlannedFile(path.name, path, path.stat().st_size) for path in sorted(source.iterdir())
    ]
    return f"{len(assemble.assemble(wanted, target))} files"


def repack(source: Path, target: Path, _sizes: Shape, workers: int) -> str:
    """Writes the checkpoint as published, a file a layer."""
    report = quantise.quantise(source, target, "mxfp4", "synthetic", workers=workers)
    return f"{len(report.files)} files"


def fp8(source: Path, target: Path, _sizes: Shape, workers: int) -> str:
    """Converts the experts to FP8."""
    found = quantise.quantise(source, target, "fp8", "synthetic", workers=workers).findings.experts
    return f"{found.exact_blocks} of {found.blocks} blocks exact"


def int8(source: Path, target: Path, _sizes: Shape, workers: int) -> str:
    """Converts the other matrices to INT8."""
    found = quantise.quantise(source, target, "int8", "synthetic", workers=workers).findings
    return f"largest error {found.matrices.largest_row_error:.5f} of a row's largest weight"


def cut(source: Path, target: Path, sizes: Shape, workers: int) -> str:
    """Writes the rank files."""
    report = shard.shard(
        source,
        target,
        sizes,
        "synthetic",
        tensor_parallel=MESH,
        expert_parallel=MESH,
        workers=workers,
    )
    return f"{len(report.files)} ranks"


STEPS: dict[str, Callable[[Path, Path, Shape, int], str]] = {
    "verify": verify,
    "place": place,
    "repack": repack,
    "shard": cut,
    "fp8": fp8,
    "int8": int8,
}


def run(step: str, source: Path, target: Path, sizes: Shape, workers: int) -> StepCost:
    """Runs a step and returns what it took."""
    started = time.perf_counter()
    note = STEPS[step](source, target, sizes, workers)
    seconds = time.perf_counter() - started
    written = sum(path.stat().st_size for path in target.rglob("*")) if target.exists() else 0
    return StepCost(seconds, _peak_bytes(), written, note)


def _peak_bytes() -> int:
    """Returns the most memory that this program has held resident, mapped files included.

    Not `getrusage`: its peak outlives `exec` and would be that of the process which started us.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    name, origin, destination, model, layers, workers = sys.argv[1:]
    cost = run(name, Path(origin), Path(destination), shape(model, int(layers)), int(workers))
    sys.stdout.write(msgspec.json.encode(cost).decode() + "\n")
