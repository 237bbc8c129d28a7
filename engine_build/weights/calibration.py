"""Static scales for FP8 activations: measured on a fixed set of prompts, or known without that.

A runtime that quantises activations with static scales stores a number x as E4M3 of x / scale. A
scale is the largest magnitude that the calibration set brings to a place, times a margin, divided
by 448, the largest E4M3 number. The set is model_assets/calibration.json: short prompts in many
languages, code, mathematics, tables.

Places, for layer N:

    model.layers.N.mlp.experts.gate_up_proj   what goes into an expert: measured
    model.layers.N.mlp.experts.down_proj      what goes into its second matrix: known. GPT-OSS
        clamps: gate to at most 7, up to -7 ... 7, and (up + 1) * gate * sigmoid(1.702 * gate) is
        then never beyond 8 * 7 = 56. The scale is 56 / 448 = 1/8 and nothing ever saturates.

Whoever can run the model gives a `Probe`; `probe` is that of the embedded runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

import model_assets
from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.weights import fp8
from engine_build.weights.contents import is_cut
from serving.boundary.engine import CHECKPOINT_DIRECTORY, RANKS_PATH, Engine
from serving.harmony.conversation import Assistant, Conversation, ReasoningEffort, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary, VocabularyError

SET = Path(model_assets.__file__).parent / "calibration.json"
SCHEMA_VERSION = 1
MARGIN = 1.25
"""Other prompts may go a little beyond the set."""
ANSWER = "All right."
"""Stands between the turns of a user who speaks twice."""

Probe = Callable[[Sequence[int]], Iterable[tuple[str, float]]]
"""Runs one prompt and yields (place, largest magnitude that came there)."""


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt of the set: what the user says, turn by turn."""

    name: str
    reasoning_effort: ReasoningEffort
    user: tuple[str, ...]


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place. `measured` False: `largest` is a bound that holds for every input."""

    largest: float
    scale: float
    measured: bool


class Scales(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `activation_scales.json`. `calibration_sha256` is that of the set."""

    schema_version: int = SCHEMA_VERSION
    calibration_sha256: str
    prompts: int
    tokens: int
    margin: float
    sites: dict[str, Site]


def prompts(vocabulary: Vocabulary, path: Path = SET) -> dict[str, list[int]]:
    """Returns the token ids of every prompt of the set by name."""
    read = msgspec.json.decode(path.read_bytes(), type=tuple[Prompt, ...])
    return {prompt.name: render(_conversation(prompt), vocabulary) for prompt in read}


def _conversation(prompt: Prompt) -> Conversation:
    first, *rest = prompt.user
    turns: list[User | Assistant] = [User(text=first)]
    for text in rest:
        turns += [Assistant(content=ANSWER), User(text=text)]
    return Conversation(system=System(reasoning_effort=prompt.reasoning_effort), turns=tuple(turns))


def calibrate(
    asked: Mapping[str, Sequence[int]],
    probe: Probe,
    *,
    layers: int,
    swiglu_limit: float,
    sha256: str,
    margin: float = MARGIN,
) -> Scales:
    """Returns the scales of all places of a model.

    Raises BuildError (DATA) naming the place and the prompt where a number is not finite, or a
    layer from which the probe told nothing.
    """
    largest: dict[str, float] = {}
    for name, tokens in asked.items():
        for place, magnitude in probe(tokens):
            if not math.isfinite(magnitude):
                raise BuildError(
                    ExitCode.DATA,
                    f"{place}: not a finite number at prompt {name}",
                    "Verify weights",
                )
            largest[place] = max(magnitude, largest.get(place, 0.0))
    bound = (swiglu_limit + 1) * swiglu_limit
    sites: dict[str, Site] = {}
    for layer in range(layers):
        experts = f"model.layers.{layer}.mlp.experts."
        if not largest.get(experts + "gate_up_proj"):
            raise BuildError(
                ExitCode.DATA, f"{experts}gate_up_proj: no prompt brought a number to it"
            )
        found = largest[experts + "gate_up_proj"]
        sites[experts + "gate_up_proj"] = Site(
            largest=found, scale=found * margin / fp8.LARGEST, measured=True
        )
        sites[experts + "down_proj"] = Site(
            largest=bound, scale=bound / fp8.LARGEST, measured=False
        )
    return Scales(
        calibration_sha256=sha256,
        prompts=len(asked),
        tokens=sum(map(len, asked.values())),
        margin=margin,
        sites=sites,
    )


def measure(directory: Path, built: Engine) -> Scales:
    """Returns the scales of an engine's model, run on the CPU by the embedded runtime.

    Raises BuildError: CONFIGURATION for an engine of rank files, DATA for a checkpoint that does
    not load or gives what is no number.
    """
    # Here, because torch takes a while.
    from engine_build.weights.calibration_probe import probe
    from serving.engines.embedded.checkpoint import CheckpointError, read_config

    if is_cut(built.runtime, built.mesh):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{directory}: is cut into {built.mesh.tensor_parallel} rank files",
            "Calibrate an engine of the same checkpoint in one piece",
        )
    try:
        asked = prompts(Vocabulary.load(directory / RANKS_PATH))
        checkpoint = directory / CHECKPOINT_DIRECTORY
        config = read_config(checkpoint)
        run = probe(checkpoint, max(map(len, asked.values())))
    except (CheckpointError, VocabularyError) as error:
        raise BuildError(ExitCode.DATA, str(error)) from None
    return calibrate(
        asked,
        run,
        layers=config.num_layers,
        swiglu_limit=config.swiglu_limit,
        sha256=durable.sha256(SET),
    )


def write(path: Path, scales: Scales) -> None:
    """Writes the file, whole or not at all."""
    durable.write(path, msgspec.json.format(msgspec.json.encode(scales), indent=2) + b"\n")


def read(path: Path) -> Scales:
    """Returns the scales of a file. Raises BuildError."""
    try:
        scales = msgspec.json.decode(path.read_bytes(), type=Scales)
    except FileNotFoundError:
        raise BuildError(ExitCode.MISSING, f"{path} is missing") from None
    except msgspec.MsgspecError as error:
        raise BuildError(ExitCode.DATA, f"{path}: {error}", "Calibrate again") from None
    if scales.schema_version != SCHEMA_VERSION:
        raise BuildError(
            ExitCode.DATA,
            f"{path}: schema_version is {scales.schema_version}, not {SCHEMA_VERSION}",
            "Calibrate again",
        )
    return scales
