"""What a build leaves beside its engine for people and machines. No part of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_build import conversion, durable, manifest
from engine_build.progress import Step
from engine_build.proof import ranks
from serving.boundary.engine import Engine, Gate


@dataclass(frozen=True, slots=True)
class NewEngine:
    """An engine, and what was measured while it was made; None where it was not."""

    engine: Engine
    conversion: conversion.ConversionReport | None = None
    ranks: ranks.RankComparison | None = None


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """One build, with times."""

    inputs: str
    """Hash of everything that the engine is made of: equal inputs need no second build."""
    digest: str
    tag: str | None
    size_bytes: int
    steps: tuple[Step, ...]
    gate: Gate | None = None
    """What was measured of the engine's precision, as in its manifest."""
    conversion: conversion.ConversionReport | None = None
    """What was written anew; None where the engine holds the published files."""
    ranks: ranks.RankComparison | None = None
    """What the rank files' logits are worth; None where there are none."""


def write(path: Path, made: NewEngine, inputs: str, tag: str | None, steps: Sequence[Step]) -> None:
    """Writes the report of a build. What it did not measure stays as an earlier build of the same
    engine found it."""
    built = made.engine
    earlier = durable.read_json(path, BuildReport)
    if earlier is not None and (earlier.inputs, earlier.digest) == (inputs, built.digest):
        made = NewEngine(built, made.conversion or earlier.conversion, made.ranks or earlier.ranks)
    content = BuildReport(
        inputs=inputs,
        digest=built.digest,
        tag=tag,
        size_bytes=manifest.size_bytes(built),
        steps=tuple(steps),
        gate=built.gate or None,
        conversion=made.conversion,
        ranks=made.ranks,
    )
    durable.write_json(path, content)
