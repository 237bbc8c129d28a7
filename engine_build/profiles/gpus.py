"""The GPU kinds that a plan can be made for, from config/gpus.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine_build.failure import BuildError, ExitCode

PATH = Path(__file__).resolve().parents[2] / "config" / "gpus.yaml"

MIB = 1024 * 1024


class Gpu(BaseModel):
    """One kind of GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: str
    memory_mib: Annotated[int, Field(ge=1)]
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]

    @property
    def memory_bytes(self) -> int:
        """What the driver reports as the total."""
        return self.memory_mib * MIB

    @property
    def sm(self) -> int:
        """The compute capability as a number: 90 for 9.0."""
        return int(self.compute_capability.replace(".", ""))


class _Listing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gpus: list[Gpu]


def read(path: Path = PATH) -> dict[str, Gpu]:
    """Returns the kinds by name. Raises BuildError that names the file and the key."""
    try:
        listing = _Listing.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise BuildError(ExitCode.CONFIGURATION, f"{path}: cannot be read: {problem}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BuildError(ExitCode.CONFIGURATION, f"{path}: {key}: {first['msg']}") from None
    return {gpu.kind: gpu for gpu in listing.gpus}


def find(kind: str, path: Path = PATH) -> Gpu:
    """Returns a kind. Raises BuildError with the nearest name."""
    known = read(path)
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        advice = f"Did you mean {near[0]}?" if near else "Add it there as nvidia-smi reports it"
        raise BuildError(ExitCode.CONFIGURATION, f"{path} has no GPU {kind}", advice)
    return known[kind]
