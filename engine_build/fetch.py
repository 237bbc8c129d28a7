"""Finds the files of the checkpoint that a profile names, or says plainly that they are missing."""

from __future__ import annotations

from dataclasses import dataclass

from engine_build.assemble import Wanted
from serving.engine import Architecture, Model


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine: what it is, and each file with what it must hold."""

    model: Model
    architecture: Architecture
    files: tuple[Wanted, ...]
