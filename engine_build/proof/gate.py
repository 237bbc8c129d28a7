"""The precision gate: an engine is about as good as its reference precision, or is not built.

The reference answers the questions greedily. The engine is then asked for the one next token at
every position of those answers, so that one early difference does not make all that follows differ.
At each position the likeliest tokens are compared, and how far the engine's distribution is from
the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine_build import durable, manifest
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import profile
from engine_build.profiles.profile import GateLimits, Profile
from engine_build.progress import Steps
from engine_build.proof import golden_prompts, probe, questions
from engine_build.proof.divergence import least_divergence
from engine_build.proof.probe import Answer, Question
from serving import engine
from serving.engine import Comparison, Engine, Gate, Golden, Precision

TOKENS_A_QUESTION = 48
DIGITS = 6
"""To which measured numbers are rounded in the manifest."""

Ask = Callable[[Path, Sequence[Question]], list[Answer]]
"""Runs the engine of a directory on questions: `probe.ask`."""


class Workbench(Protocol):
    """Makes the engines that are compared, each a directory that can be run."""

    @property
    def work(self) -> Path:
        """Where the engine grows that the build is for."""
        ...

    @property
    def steps(self) -> Steps:
        """What shows a person how far the build is."""
        ...

    def make(self, chosen: Profile) -> Engine:
        """Makes `work` the engine of a profile, and returns its manifest. Raises BuildError."""
        ...

    def lend(self, chosen: Profile, room: Path) -> None:
        """Makes `room` a directory that runs as the engine of a profile would, of links."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a profile asks of precision: the same profile in other formats, and the limits."""

    limits: GateLimits
    reference: Profile
    fallback: Profile | None = None
    ask: Ask = probe.ask


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the reference's answers: what stands before it, and what the reference says.

    `likeliest` is None where the runtime gives no log-probabilities.
    """

    context: tuple[int, ...]
    token: int
    likeliest: dict[int, float] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is built, and its answers to the golden prompts.

    None for an engine that was not run, as it has the reference's own precision.
    """

    engine: Engine
    golden: tuple[Golden, ...] | None


def choose(asked: Profile, wanted: Wanted, workbench: Workbench, room: Path) -> Choice:
    """Returns what the work directory now is: of the asked-for precision, or of the fallback.

    `room` is a directory for the reference engine, which is gone afterwards. An engine is started
    once: what passes has answered the golden prompts too. Raises BuildError (PRECISION) with the
    numbers when nothing that the profile allows passes.
    """
    reference = _formats(wanted.reference)
    places: list[Position] = []
    found: list[Comparison] = []
    for candidate in (asked, wanted.fallback):
        if candidate is None:
            break
        draft = workbench.make(candidate)
        if draft.precision == reference:  # there is nothing to compare
            return Choice(_accept(draft, wanted, reference, found, workbench.work), None)
        places = places or _reference_positions(wanted, workbench, room)
        asked_golden = golden_prompts.prompts(workbench.work / engine.RANKS_PATH)
        contexts = [Question(place.context) for place in places]
        greedy = [Question(tuple(one), golden_prompts.MAX_TOKENS) for one in asked_golden.values()]
        with workbench.steps.step(f"Asking the engine for {len(contexts)} next tokens"):
            told = wanted.ask(workbench.work, contexts + greedy)
        found.append(compare(draft.precision, places, told[: len(places)], wanted.limits))
        if found[-1].passed:
            answers = tuple(
                Golden(name=name, prompt=tuple(prompt), tokens=answer.tokens)
                for (name, prompt), answer in zip(
                    asked_golden.items(), told[len(places) :], strict=True
                )
            )
            return Choice(_accept(draft, wanted, reference, found, workbench.work), answers)
    told_numbers = "; ".join(describe(one) for one in found)
    raise BuildError(
        ExitCode.PRECISION,
        f"{asked.name} is too far from {words(reference)}: {told_numbers}. Wanted are "
        f"at least {wanted.limits.least_agreement:.1%} equal tokens and at most "
        f"{wanted.limits.most_divergence} nats",
        "Ask for another precision, or allow one in gate.fallback",
    )


def _reference_positions(wanted: Wanted, workbench: Workbench, room: Path) -> list[Position]:
    workbench.lend(wanted.reference, room)
    with workbench.steps.step("Asking an engine of the reference precision"):
        found = positions(room, wanted.ask)
    durable.remove(room)
    return found


def positions(reference: Path, ask: Ask = probe.ask) -> list[Position]:
    """Returns every position of an engine's answers to the questions. Raises BuildError."""
    asked = questions.prompts(reference / engine.RANKS_PATH)
    answers = ask(reference, [Question(tuple(one), TOKENS_A_QUESTION) for one in asked.values()])
    return [
        Position(
            context=(*prompt, *answer.tokens[:index]),
            token=token,
            likeliest=answer.likeliest[index] if answer.likeliest else None,
        )
        for prompt, answer in zip(asked.values(), answers, strict=True)
        for index, token in enumerate(answer.tokens)
    ]


def compare(
    precision: Precision, places: Sequence[Position], told: Sequence[Answer], limits: GateLimits
) -> Comparison:
    """Returns what an engine's answers at the positions say of its precision. Raises BuildError
    (DATA) when there is nothing to compare, or a number is none."""
    if not places:
        raise BuildError(ExitCode.DATA, "the reference engine answered none of the questions")
    pairs = list(zip(places, told, strict=True))
    equal = sum(place.token == answer.tokens[0] for place, answer in pairs)
    distances = [
        _distance(place.likeliest, answer.likeliest[0])
        for place, answer in pairs
        if place.likeliest is not None and answer.likeliest
    ]
    agreement = equal / len(places)
    divergence = sum(distances) / len(distances) if distances else None
    return Comparison(
        precision=precision,
        positions=len(places),
        agreement=round(agreement, DIGITS),
        divergence=None if divergence is None else round(divergence, DIGITS),
        largest_divergence=round(max(distances), DIGITS) if distances else None,
        passed=agreement >= limits.least_agreement
        and (divergence is None or divergence <= limits.most_divergence),
    )


def describe(found: Comparison) -> str:
    """Returns one comparison in words."""
    text = f"{words(found.precision)}: {found.agreement:.1%} of {found.positions} tokens equal"
    if found.divergence is not None:
        text += f", divergence {found.divergence:.4g} nats"
    return text


def words(precision: Precision | profile.Precision) -> str:
    """Returns a precision in words."""
    return (
        f"weights {precision.weights}, activations {precision.activations}, "
        f"KV cache {precision.kv_cache}"
    )


def _accept(
    draft: Engine, wanted: Wanted, reference: Precision, found: list[Comparison], work: Path
) -> Engine:
    if found:
        verdict = Gate(
            reference=reference,
            least_agreement=wanted.limits.least_agreement,
            most_divergence=wanted.limits.most_divergence,
            comparisons=tuple(found),
        )
        draft = manifest.with_gate(draft, verdict)
    manifest.write(work, draft)
    return draft


def _formats(chosen: Profile) -> Precision:
    """Returns a profile's precision as an engine's manifest has it."""
    return Precision(**chosen.precision.model_dump())


def _distance(reference: dict[int, float], other: dict[int, float]) -> float:
    try:
        return least_divergence(reference, other)
    except ValueError as error:
        raise BuildError(ExitCode.DATA, f"an engine's answer cannot be compared: {error}") from None
