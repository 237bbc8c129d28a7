"""Engines that only pretend, for what the precision gate decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine_build.build import build
from engine_build.profiles.profile import GateLimits, Precision, Profile
from engine_build.proof import gate, golden_prompts, known_answers, questions
from engine_build.proof.probe import Answer, Question
from serving.boundary import engine
from serving.boundary.engine import Engine
from tests.engine_build.scene import Scene, furnish

LIMITS = GateLimits(least_agreement=0.9, most_divergence=0.1)
WHOLE, HALF, QUARTER = "float32", "bfloat16", "float8"


@dataclass
class Pretended:
    """Engines whose next tokens depend on their activations alone."""

    tokens: dict[str, int]
    likelihood: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def ask(self, directory: Path, wanted: Sequence[Question]) -> list[Answer]:
        """Answers every question with the precision's token."""
        activations = engine.read(directory).precision.activations
        self.asked.append(activations)
        token = self.tokens[activations]
        likely = self.likelihood.get(activations)
        entry = () if likely is None else ({token: math.log(likely)},)
        return [Answer((token,) * one.max_tokens, entry * one.max_tokens) for one in wanted]


def in_precision(profile: Profile, activations: str) -> Profile:
    formats = Precision(weights="mxfp4", activations=activations)
    return profile.model_copy(update={"precision": formats})


def run(scene: Scene, pretended: Pretended, fallback: str | None = None) -> Engine:
    """Builds the scene's profile in bfloat16 with a gate."""
    wanted = gate.PrecisionGate(
        limits=LIMITS,
        reference=in_precision(scene.profile, WHOLE),
        fallbacks=() if fallback is None else (in_precision(scene.profile, fallback),),
        ask=pretended.ask,
    )
    return build(
        in_precision(scene.profile, HALF),
        scene,
        scene.state,
        scene.steps(),
        store=None,
        record=scene.record,
        gate=wanted,
    ).engine


def short_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Returns a build of two questions and one golden prompt, without known answers."""
    monkeypatch.setattr(questions, "prompts", lambda _ranks: {"one": [1, 2], "two": [3]})
    monkeypatch.setattr(golden_prompts, "prompts", lambda _ranks: {"greeting": [4, 5]})
    monkeypatch.setattr(known_answers, "known_tokens", lambda _ranks: [])
    return furnish(tmp_path)
