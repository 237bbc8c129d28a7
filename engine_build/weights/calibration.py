"""The largest numbers that come to each layer's experts: what a format for activations must hold.

They are measured with a fixed set of prompts, model_assets/calibration.json: short ones in many
languages, code, mathematics, tables. What comes to an expert's second matrix is known without that:
GPT-OSS clamps gate to at most 7 and up to -7 ... 7, so (up + 1) * gate * sigmoid(1.702 * gate) is
never beyond 8 * 7 = 56.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

import model_assets
from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.weights.contents import is_cut
from serving.boundary.engine import CHECKPOINT_DIRECTORY, RANKS_PATH, Engine
from serving.engines.embedded.checkpoint import CheckpointError
from serving.engines.embedded.experts import Experts
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.model import Model
from serving.engines.embedded.plan import Planner, Span
from serving.harmony.conversation import Assistant, Conversation, ReasoningEffort, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary, VocabularyError

SET = Path(model_assets.__file__).parent / "calibration.json"
ANSWER = "All right."
"""Stands between the turns of a user who speaks twice."""
BLOCK_TOKENS = 32
RESERVED_BLOCKS = 1
"""The null block of a cache."""
CPU = torch.device("cpu")


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt of the set: what the user says, turn by turn."""

    name: str
    reasoning_effort: ReasoningEffort
    user: tuple[str, ...]


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. `calibration_sha256` is that of the set."""

    calibration_sha256: str
    prompts: int
    tokens: int
    largest: dict[str, float]
    """Magnitudes by what they come to: model.layers.N.mlp.experts.gate_up_proj."""


def prompts(vocabulary: Vocabulary) -> dict[str, list[int]]:
    """Returns the token ids of every prompt of the set by name."""
    read = msgspec.json.decode(SET.read_bytes(), type=tuple[Prompt, ...])
    return {prompt.name: render(_conversation(prompt), vocabulary) for prompt in read}


def _conversation(prompt: Prompt) -> Conversation:
    first, *rest = prompt.user
    turns: list[User | Assistant] = [User(text=first)]
    for text in rest:
        turns += [Assistant(content=ANSWER), User(text=text)]
    return Conversation(system=System(reasoning_effort=prompt.reasoning_effort), turns=tuple(turns))


def calibrate(directory: Path, built: Engine) -> Calibration:
    """Returns what the prompts bring to an engine's experts, run on the CPU in float32.

    Raises BuildError: CONFIGURATION for an engine of rank files, DATA for a checkpoint that does
    not load or gives what is no number.
    """
    if is_cut(built.runtime, built.mesh):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{directory}: is cut into {built.mesh.tensor_parallel} rank files",
            "Calibrate an engine of the same checkpoint in one piece",
        )
    try:
        asked = prompts(Vocabulary.load(directory / RANKS_PATH))
        checkpoint = directory / CHECKPOINT_DIRECTORY
        model = load_model(checkpoint, block_tokens=BLOCK_TOKENS, dtype=torch.float32, device=CPU)
    except (CheckpointError, VocabularyError) as error:
        raise BuildError(ExitCode.DATA, str(error)) from None
    largest: dict[str, float] = {}
    for name, tokens in asked.items():
        for place, magnitude in magnitudes(model, tokens):
            if not math.isfinite(magnitude):
                raise BuildError(
                    ExitCode.DATA,
                    f"{place}: not a finite number at prompt {name}",
                    "Verify the engine",
                )
            largest[place] = max(magnitude, largest.get(place, 0.0))
    return Calibration(
        calibration_sha256=durable.sha256(SET),
        prompts=len(asked),
        tokens=sum(map(len, asked.values())),
        largest=largest,
    )


@dataclass(frozen=True, slots=True)
class _Watched(Experts):
    """Experts that note the largest magnitude of what comes to them."""

    place: str
    seen: dict[str, float]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Experts`."""
        self.seen[self.place] = float(x.abs().max())
        return Experts.__call__(self, x)


def magnitudes(model: Model, tokens: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Yields the largest magnitude that one prompt brings to each layer's experts."""
    seen: dict[str, float] = {}
    watched = _watch(model, seen)
    blocks = -(-len(tokens) // BLOCK_TOKENS) + RESERVED_BLOCKS
    planner = Planner(model.sizes, blocks, blocks, model.dtype, CPU)
    table = np.arange(RESERVED_BLOCKS, blocks)
    store = KvStore((blocks,) * len(watched.layers), model.sizes, model.dtype, CPU)
    span = Span(np.array(tokens, dtype=np.int64), 0, table, table, samples=True)
    with torch.inference_mode():
        watched.forward(planner.plan([span]), store)
    yield from seen.items()


def _watch(model: Model, seen: dict[str, float]) -> Model:
    """Returns the model with its experts watched.

    The forward pass computes its last layer for the rows that are sampled alone. So the last layer
    comes once more, unwatched, and the one before it sees every row.
    """
    layers = tuple(
        replace(
            layer,
            experts=_Watched(
                router=layer.experts.router,
                per_token=layer.experts.per_token,
                bank=layer.experts.bank,
                place=f"model.layers.{index}.mlp.experts.gate_up_proj",
                seen=seen,
            ),
        )
        for index, layer in enumerate(model.layers)
    )
    return replace(model, layers=(*layers, model.layers[-1]))
