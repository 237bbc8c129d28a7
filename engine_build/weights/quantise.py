"""A checkpoint in another precision, part by part, with what the change cost.

`mxfp4`  as published: nothing is converted, there is nothing to do
`fp8`    the experts' matrices in E4M3 with a scale a tile (engine_build.weights.fp8)
`int8`   attention's matrices and the LM head in INT8 with a scale a row (engine_build.weights.int8)

Everything else passes through bit for bit: norms, biases, sinks, routers, the input table, and
with `int8` the experts, which are smaller as MXFP4. In the new checkpoint

    X_blocks, X_scales  become  X_values       F8_E4M3 (experts, rows, columns)
                                X_tile_scales  F32 (experts, rows / 128, columns / 128), rounded up
    X.weight            becomes X.weight_values  I8 (rows, columns)
                                X.weight_scales  F32 (rows)

and `quantization_config` in config.json says so. One file a layer, several at a time: numpy and
hashlib work outside the interpreter's lock, so threads use all cores, and share what they read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine_build import durable
from engine_build.durable import Advance
from engine_build.failure import BuildError, ExitCode
from engine_build.ledger import FinishedFile, Ledger
from engine_build.weights import fp8, int8, tensors
from engine_build.weights.tensor_file import Bytes, Spec, pieces, write
from engine_build.weights.tensors import Tensors

FORMATS = ("mxfp4", "fp8", "int8")
REPORT_NAME = "quantisation.json"
TABLES_GROUP = "tables"
ROWS_AT_ONCE = 4096
_BLOCKS, _SCALES, _WEIGHT = "_blocks", "_scales", ".weight"


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What the conversion of one file, or of all, did."""

    experts: fp8.Fp8Findings = fp8.Fp8Findings()
    matrices: int8.Int8Findings = int8.Int8Findings()

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            experts=self.experts + other.experts, matrices=self.matrices + other.matrices
        )


class QuantisationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a quantised checkpoint. `files` has the sha256 of each by name."""

    source: str
    precision: str
    findings: Findings
    files: dict[str, str]


def quantise(
    source: Path,
    target: Path,
    precision: str,
    identity: str,
    *,
    workers: int,
    advance: Advance = durable.ignore,
) -> QuantisationReport:
    """Writes the checkpoint of `source` into `target` in another precision, and its report.

    `identity` names what is in `source` (a digest of its files): with the same one, files that an
    earlier call finished are kept. `advance` is told of bytes written. Raises BuildError, DATA for
    a weight that is not a number.
    """
    with durable.storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    finished = Ledger(target)
    with tensors.open_checkpoint(source) as opened, ThreadPoolExecutor(workers) as pool:
        groups = _groups(planned(opened.specs, precision))
        tasks = {
            _file_name(group, len(groups)): (specs, _Contents(opened, precision))
            for group, specs in groups.items()
        }
        made = pool.map(
            lambda name: _file(finished, target / name, *tasks[name], identity, precision, advance),
            tasks,
        )
        done = dict(zip(tasks, made, strict=True))
    weight_map = {name: file for file, (specs, _) in tasks.items() for name in specs}
    size_bytes = sum(spec.size_bytes for specs, _ in tasks.values() for spec in specs.values())
    durable.write(target / tensors.INDEX_NAME, tensors.index(weight_map, size_bytes))
    durable.write(target / tensors.CONFIG_NAME, _config(source, precision))
    report = QuantisationReport(
        source=identity,
        precision=precision,
        findings=sum(map(_findings, done.values()), Findings()),
        files={name: one.sha256 for name, one in done.items()},
    )
    durable.write_json(target / REPORT_NAME, report)
    return report


def read(path: Path) -> QuantisationReport:
    """Returns the report of a conversion. Raises BuildError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=QuantisationReport)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise BuildError(ExitCode.DATA, f"{path}: {error}", "Build the engine again") from None


def describe(report: QuantisationReport) -> str:
    """Returns what a conversion cost, in words."""
    experts, matrices = report.findings.experts, report.findings.matrices
    if experts.blocks:
        return (
            f"{experts.exact_blocks:,} of {experts.blocks:,} blocks exact, largest error "
            f"{experts.largest_tile_error:.3g} of what a tile can hold"
        )
    return (
        f"{matrices.weights:,} weights, largest error {matrices.largest_row_error:.3g} of the "
        "largest in a row"
    )


def planned(specs: Mapping[str, Spec], weights: str) -> dict[str, Spec]:
    """Returns the tensors of the new checkpoint for those of the old one."""
    if weights not in FORMATS:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"precision.weights is {weights!r}",
            f"Known: {', '.join(FORMATS)}",
        )
    found: dict[str, Spec] = {}
    for name, spec in specs.items():
        if weights == "fp8" and name.endswith(_BLOCKS):
            experts, rows, blocks, _ = spec.shape
            stem = name.removesuffix(_BLOCKS)
            found[stem + "_values"] = Spec("F8_E4M3", (experts, rows, blocks * fp8.BLOCK))
            tiles = (-(-rows // fp8.TILE_ROWS), -(-blocks // fp8.TILE_BLOCKS))
            found[stem + "_tile_scales"] = Spec("F32", (experts, *tiles))
        elif weights == "fp8" and name.endswith(_SCALES):
            continue
        elif weights == "int8" and _is_matrix(name):
            found[name + "_values"] = Spec("I8", spec.shape)
            found[name + "_scales"] = Spec("F32", spec.shape[:1])
        else:
            found[name] = spec
    return found


def _is_matrix(name: str) -> bool:
    return name.endswith("_proj.weight") or name == "lm_head.weight"


def _groups(specs: Mapping[str, Spec]) -> dict[str, dict[str, Spec]]:
    """Returns the tensors of each file: a layer, or the vocabulary tables."""
    groups: dict[str, dict[str, Spec]] = {}
    for name, spec in specs.items():
        parts = name.split(".")
        group = parts[2] if parts[:2] == ["model", "layers"] else TABLES_GROUP
        groups.setdefault(group, {})[name] = spec
    return groups


def _file_name(group: str, count: int) -> str:
    number = count - 1 if group == TABLES_GROUP else int(group)
    return f"model-{number:05d}-of-{count - 1:05d}.safetensors"


def _file(
    finished: Ledger,
    path: Path,
    specs: Mapping[str, Spec],
    contents: _Contents,
    identity: str,
    precision: str,
    advance: Advance,
) -> FinishedFile:
    def make() -> tuple[str, msgspec.Raw]:
        written = write(path, specs, contents, advance=advance)
        return written.sha256, msgspec.Raw(msgspec.json.encode(contents.findings))

    return finished.once(path.name, path, f"{identity} {precision}", make, advance)


def _findings(file: FinishedFile) -> Findings:
    return msgspec.json.decode(file.findings, type=Findings)


class _Contents:
    """The bytes of one new file. Asked in file order: a tensor's scales before its values."""

    def __init__(self, opened: Tensors, weights: str) -> None:
        self.findings = Findings()
        self._opened = opened
        self._weights = weights
        self._scales: dict[str, Any] = {}

    def __call__(self, name: str) -> Iterator[Bytes]:
        """Yields the bytes of a tensor."""
        if self._weights == "fp8" and name.endswith("_tile_scales"):
            return self._tile_scales(name.removesuffix("_tile_scales"))
        if self._weights == "fp8" and name.endswith("_values"):
            return self._fp8(name.removesuffix("_values"))
        if self._weights == "int8" and name.endswith(_WEIGHT + "_scales"):
            return self._row_scales(name.removesuffix("_scales"))
        if self._weights == "int8" and name.endswith(_WEIGHT + "_values"):
            return self._int8(name.removesuffix("_values"))
        return self._opened.stream(name)

    def _experts(self, stem: str) -> Iterator[tuple[Bytes, Bytes]]:
        """Yields (blocks, scales) of each expert."""
        blocks, scales = self._opened.raw(stem + _BLOCKS), self._opened.raw(stem + _SCALES)
        yield from zip(blocks[..., 0], scales[..., 0], strict=True)

    def _tile_scales(self, stem: str) -> Iterator[Bytes]:
        found = []
        for expert, (blocks, scales) in enumerate(self._experts(stem)):
            try:
                found.append(fp8.tile_exponents(blocks, scales))
            except ValueError as error:
                raise _not_a_number(f"{stem}{_SCALES}, expert {expert}", error) from None
        self._scales[stem] = found
        yield from pieces(fp8.scale(np.stack(found)).view(np.uint8))

    def _fp8(self, stem: str) -> Iterator[Bytes]:
        done_bytes = 0
        for (blocks, scales), exponents in zip(
            self._experts(stem), self._scales.pop(stem), strict=True
        ):
            codes, found = fp8.convert(blocks, scales, exponents)
            self.findings += Findings(experts=found)
            yield codes
            self._opened.release(stem + _BLOCKS, done_bytes, done_bytes + blocks.size)
            done_bytes += blocks.size
        self._opened.release(stem + _SCALES)

    def _rows(self, name: str) -> Iterator[tuple[slice, Any]]:
        raw = self._opened.raw(name)
        for start in range(0, len(raw), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            yield part, int8.widen(raw[part])
            row_bytes = raw[0].size
            self._opened.release(name, part.start * row_bytes, part.stop * row_bytes)

    def _row_scales(self, name: str) -> Iterator[Bytes]:
        try:
            scales = np.concatenate([int8.row_scales(weight) for _, weight in self._rows(name)])
        except ValueError as error:
            raise _not_a_number(name, error) from None
        self._scales[name] = scales
        yield scales.view(np.uint8)

    def _int8(self, name: str) -> Iterator[Bytes]:
        scales = self._scales.pop(name)
        for part, weight in self._rows(name):
            codes, found = int8.convert(weight, scales[part])
            self.findings += Findings(matrices=found)
            yield codes.view(np.uint8)


def _not_a_number(name: str, error: ValueError) -> BuildError:
    return BuildError(ExitCode.DATA, f"{name}: {error}", "Fetch the file that holds it again")


def _config(source: Path, weights: str) -> bytes:
    """Returns config.json for the new checkpoint."""
    config = tensors.read_config(source)
    if weights == "fp8":
        config["quantization_config"] = {
            "quant_method": "fp8_tiles",
            "tile_size": [fp8.TILE_ROWS, fp8.TILE_COLUMNS],
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    if weights == "int8":
        config["weight_only_quantization"] = {
            "method": "int8_rows",
            "modules": ["model.layers.*.self_attn", "lm_head"],
        }
    return json.dumps(config, indent=2).encode() + b"\n"
