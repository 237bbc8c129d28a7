"""Rank files: for each rank of a mesh one file with its part of every tensor.

The rules are those of the module `layout`. A runtime that loads rank files maps its own and reads
nothing of the others'. TensorRT-LLM reads the published layout and cuts it itself: its loader of
files that are cut already is announced and not there yet, so engines for it are not sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine_build import durable, ledger
from engine_build.durable import Advance
from engine_build.ledger import FinishedFile, Ledger
from engine_build.weights import layout, tensors
from engine_build.weights.inventory import Sizes
from engine_build.weights.tensor_file import Bytes, Spec, write
from engine_build.weights.tensors import Tensors
from serving.engines.embedded.place import Place

REPORT_NAME = "sharding.json"


class ShardingReport(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside the rank files. `files` has the sha256 of each by name, in rank order."""

    source: str
    tensor_parallel: int
    expert_parallel: int
    files: dict[str, str]


def file_name(place: Place) -> str:
    """Returns the name of a rank's file."""
    return f"rank-{place.rank:05d}-of-{place.tensor_parallel:05d}.safetensors"


def shard(
    source: Path,
    target: Path,
    sizes: Sizes,
    identity: str,
    *,
    tensor_parallel: int,
    expert_parallel: int,
    workers: int,
    advance: Advance = durable.ignore,
) -> ShardingReport:
    """Writes the rank files of the checkpoint in `source` into `target`, and their report.

    `identity` names what is in `source`: with the same one, files that an earlier call finished
    are kept. `advance` is told of bytes written. Raises BuildError: CONFIGURATION for a mesh that
    does not fit the model, DATA for a config.json of another model. That the tensors are those of
    `sizes` is for `tensors.check` to see before.
    """
    layout.check(sizes, tensor_parallel, expert_parallel)
    tensors.check_config(source, sizes)
    ranks = layout.places(tensor_parallel, expert_parallel)
    made_from = f"{identity} tp{tensor_parallel} ep{expert_parallel}"
    with durable.storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    finished = Ledger(target)
    with tensors.open_checkpoint(source) as opened, ThreadPoolExecutor(workers) as pool:
        # Every rank's file is planned before the first is written: what cannot be cut shows now.
        plans = {place: layout.rank_specs(opened.specs, place, sizes) for place in ranks}
        made = pool.map(
            lambda place: _file(
                finished, target, place, plans[place], opened, sizes, made_from, advance
            ),
            ranks,
        )
        done = dict(zip(map(file_name, ranks), made, strict=True))
    report = ShardingReport(
        source=identity,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        files={name: one.sha256 for name, one in done.items()},
    )
    config = (source / tensors.CONFIG_NAME).read_bytes()
    durable.write(target / tensors.CONFIG_NAME, config)
    durable.write_json(target / REPORT_NAME, report)
    return report


def _file(
    finished: Ledger,
    target: Path,
    place: Place,
    specs: Mapping[str, Spec],
    opened: Tensors,
    sizes: Sizes,
    made_from: str,
    advance: Advance,
) -> FinishedFile:
    path = target / file_name(place)
    metadata = {
        "rank": str(place.rank),
        "tensor_parallel": str(place.tensor_parallel),
        "expert_parallel": str(place.expert_parallel),
    }

    def contents(name: str) -> Iterator[Bytes]:
        return opened.stream(name, layout.cut(name, place, sizes))

    def make() -> tuple[str, msgspec.Raw]:
        written = write(path, specs, contents, metadata=metadata, advance=advance)
        return written.sha256, ledger.NOTHING

    return finished.once(path.name, path, made_from, make, advance)
