"""A checkpoint with everything of a published one but the meaning of its weights.

Names, shapes, dtypes, the config's numbers, which file holds what and every file's size are those
of openai/gpt-oss-20b and -120b: the index files come out with the published sha256. The layers can
be fewer, to fit a disk. `python -m benchmarks.synthetic gpt-oss-20b DIRECTORY [--layers N]` writes
one. Values are drawn in the ranges of trained weights, from a window that moves over a table of
random bytes: files do not compress and no two tensors are equal, at the speed of the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from engine_build.weights import inventory, tensors
from engine_build.weights.tensor_file import DTYPE_BYTES, PIECE_BYTES, Bytes, Spec, write
from model_assets import manifest
from model_assets.development.shape import Shape, config

FILE_LIMIT_BYTES = 4_800_000_000
"""Past this the next tensor begins a new file."""
PART_LIMIT_BYTES = 10_600_000_000
PART_ORDER = (3, 2, 5, 1, 0, 6, 4)
"""The layout of gpt-oss-120b: parts of up to `PART_LIMIT_BYTES`, seven, in this order. Inferred, by
trying all orders: this one gives the sizes of the published files and the sha256 of their index."""

TABLE_BYTES = 32 * 1024 * 1024
# E8M0 scales of expert weights: 2 ** (120 - 127) and a few steps around it.
LOWEST_SCALE, SCALES = 116, 8
DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class SyntheticCheckpoint:
    """What was written."""

    directory: Path
    files: tuple[str, ...]
    tensor_bytes: int


def generate(
    shape: Shape, directory: Path, limit_bytes: int = FILE_LIMIT_BYTES
) -> SyntheticCheckpoint:
    """Writes the checkpoint of an architecture into a new directory; the same bytes every time."""
    directory.mkdir(parents=True)
    specs = inventory.checkpoint(shape)
    files = arrange(specs, limit_bytes)
    source = _Source(specs)
    for file, names in files.items():
        write(directory / file, {name: specs[name] for name in names}, source)
    weight_map = {name: file for file, names in files.items() for name in names}
    tensor_bytes = sum(spec.size_bytes for spec in specs.values())
    (directory / tensors.INDEX_NAME).write_bytes(tensors.index(weight_map, tensor_bytes))
    (directory / tensors.CONFIG_NAME).write_text(json.dumps(config(shape), indent=2) + "\n")
    return SyntheticCheckpoint(directory, tuple(files), tensor_bytes)


def arrange(specs: Mapping[str, Spec], limit_bytes: int = FILE_LIMIT_BYTES) -> dict[str, list[str]]:
    """Returns the tensors of each file, by the file's name, both in the published order."""
    parts = split(specs, PART_LIMIT_BYTES)
    if len(parts) == len(PART_ORDER):
        parts = [parts[number] for number in PART_ORDER]
    groups = split({name: specs[name] for part in parts for name in part}, limit_bytes)
    last = len(groups) - 1
    return {
        f"model-{number:05d}-of-{last:05d}.safetensors": names
        for number, names in enumerate(groups)
    }


def split(specs: Mapping[str, Spec], limit_bytes: int) -> list[list[str]]:
    """Returns which tensors go into which file: in order, each file filled up to the limit.

    The three weights that the published checkpoint was converted to from one stay together.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for unit in _units(specs):
        size_bytes = sum(specs[name].size_bytes for name in unit)
        if groups[-1] and filled + size_bytes > limit_bytes:
            groups.append([])
            filled = 0
        groups[-1] += unit
        filled += size_bytes
    return groups


def _units(specs: Mapping[str, Spec]) -> Iterator[list[str]]:
    joined: list[str] = []
    for name in specs:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            joined.append(name)
            continue
        yield [*joined, name]
        joined = []


class _Source:
    """Bytes for each tensor, from three tables that are filled once."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        random = np.random.default_rng(0)
        self._specs = specs
        starts = 4 * random.integers(0, TABLE_BYTES // 4, len(specs))
        self._starts = dict(zip(specs, starts.tolist(), strict=True))
        codes = random.integers(0, 256, TABLE_BYTES, dtype=np.uint8)
        scales = random.integers(LOWEST_SCALE, LOWEST_SCALE + SCALES, TABLE_BYTES, dtype=np.uint8)
        normal = random.standard_normal(TABLE_BYTES // 2, dtype=np.float32) * DEVIATION
        # The upper half of a float32 is its bfloat16, cut off.
        halves = (normal.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        self._tables = {"blocks": codes, "scales": scales, "bf16": halves}

    def __call__(self, name: str) -> Iterator[Bytes]:
        """Yields the bytes of a tensor."""
        spec = self._specs[name]
        kind = name.rpartition("_")[2] if spec.dtype == "U8" else "bf16"
        table = self._tables[kind]
        left = prod(spec.shape) * DTYPE_BYTES[spec.dtype]
        start = self._starts[name]
        while left:
            piece = table[start : start + min(left, PIECE_BYTES)]
            yield piece
            left -= len(piece)
            # Odd in items of four bytes, so that repetitions are far apart.
            start = (start + PIECE_BYTES + 4099 * 4) % (TABLE_BYTES - 4)


def main(
    name: Annotated[str, typer.Argument(help="gpt-oss-120b or gpt-oss-20b.")],
    directory: Annotated[Path, typer.Argument(help="Where to write it; replaced if it exists.")],
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the model has.")] = None,
) -> None:
    """Writes a synthetic checkpoint."""
    shape = manifest.read(name).architecture
    if layers is not None:
        shape = msgspec.structs.replace(shape, num_hidden_layers=layers)
    shutil.rmtree(directory, ignore_errors=True)
    made = generate(shape, directory)
    print(f"{made.directory}: {len(made.files)} files, {made.tensor_bytes / 1e9:.2f} GB of tensors")


if __name__ == "__main__":
    typer.run(main)
