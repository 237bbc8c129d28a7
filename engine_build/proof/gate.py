"""The precision gate: an engine is about as good as its reference precision, or is not built.

The reference answers the questions greedily. The engine is then asked for the one next token at
every position of those answers, so that one early difference does not make all that follows differ.
At each position the likeliest tokens are compared, and how far the engine's distribution is from
the reference's. Known answers to other questions tell which of the two is right. Formats are judged
apart: where all that are asked for do not pass together, each is tried without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from engine_build import durable, manifest
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import profile
from engine_build.profiles.profile import GateLimits, Profile
from engine_build.proof import golden_prompts, known_answers, probe, questions
from engine_build.proof.divergence import least_divergence
from engine_build.proof.probe import Answer, Question
from serving.boundary import engine
from serving.boundary.engine import Comparison, Engine, Gate, Golden, Precision

if TYPE_CHECKING:
    from engine_build.workbench import Workbench

TOKENS_A_QUESTION = 48
DIGITS = 6
"""To which measured numbers are rounded in the manifest."""

Ask = Callable[[Path, Sequence[Question]], list[Answer]]
"""Runs the engine of a directory on questions: `probe.ask`."""


@dataclass(frozen=True, slots=True)
class PrecisionGate:
    """What a profile asks of precision: the same profile in other formats, and the limits."""

    limits: GateLimits
    reference: Profile
    fallbacks: tuple[Profile, ...] = ()
    """In the order in which they are tried."""
    ask: Ask = probe.ask


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an answer: what stands before it, and what the reference says.

    `likeliest` is None where the runtime gives no log-probabilities; `expected` is the token of a
    known answer, None in an answer of the reference's own.
    """

    context: tuple[int, ...]
    token: int
    likeliest: dict[int, float] | None
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is built, and its answers to the golden prompts.

    None for an engine that was not run, as it has the reference's own precision.
    """

    engine: Engine
    golden: tuple[Golden, ...] | None


def choose(asked: Profile, wanted: PrecisionGate, workbench: Workbench, directory: Path) -> Choice:
    """Returns what the work directory now is: of the asked-for precision, or of the fallback.

    `directory` is for the reference engine and is gone afterwards. An engine is started once: what
    passes has answered the golden prompts too. Raises BuildError (PRECISION) with the numbers when
    nothing that the profile allows passes.
    """
    reference = _formats(wanted.reference)
    places: list[Position] = []
    found: list[Comparison] = []
    failures: list[str] = []
    for candidate in (asked, *wanted.fallbacks):
        draft = workbench.make(candidate)
        if draft.precision == reference:  # there is nothing to compare
            return Choice(_accept(draft, wanted, reference, found, workbench.work), None)
        places = places or _reference_positions(wanted, workbench, directory)
        asked_golden = golden_prompts.prompts(workbench.work / engine.RANKS_PATH)
        contexts = [Question(place.context) for place in places]
        greedy = [Question(tuple(one), golden_prompts.MAX_TOKENS) for one in asked_golden.values()]
        try:
            with workbench.steps.step(f"Asking the engine for {len(contexts)} next tokens"):
                told = wanted.ask(workbench.work, contexts + greedy)
        except BuildError as error:
            # The reference has run here, so it is these formats that do not.
            failures.append(f"{words(draft.precision)}: {error.message}")
            workbench.steps.console.print(failures[-1], highlight=False, soft_wrap=True)
            found.append(_failed(draft.precision))
            continue
        found.append(compare(draft.precision, places, told[: len(places)], wanted.limits))
        if found[-1].passed:
            answers = tuple(
                Golden(name=name, prompt=tuple(prompt), tokens=answer.tokens)
                for (name, prompt), answer in zip(
                    asked_golden.items(), told[len(places) :], strict=True
                )
            )
            return Choice(_accept(draft, wanted, reference, found, workbench.work), answers)
    if not any(one.positions for one in found):
        raise BuildError(ExitCode.DATA, "; ".join(failures))
    told_numbers = "; ".join([*(describe(one) for one in found if one.positions), *failures])
    raise BuildError(
        ExitCode.PRECISION,
        f"{asked.name} is too far from {words(reference)}: {told_numbers}. Wanted are "
        f"{describe_limits(wanted.limits)}",
        "Ask for another precision, or allow one in gate.fallback",
    )


def _reference_positions(
    wanted: PrecisionGate, workbench: Workbench, directory: Path
) -> list[Position]:
    workbench.link(wanted.reference, directory)
    with workbench.steps.step("Asking an engine of the reference precision"):
        found = positions(directory, wanted.ask)
    durable.remove(directory)
    return found


def positions(reference: Path, ask: Ask = probe.ask) -> list[Position]:
    """Returns every position of an engine's answers to the questions, and of the known answers.
    Raises BuildError."""
    ranks = reference / engine.RANKS_PATH
    asked, known = questions.prompts(ranks), known_answers.known_tokens(ranks)
    told = ask(
        reference,
        [Question(tuple(one), TOKENS_A_QUESTION) for one in asked.values()]
        + [Question(place.context) for place in known],
    )
    found = [
        Position(
            context=(*prompt, *answer.tokens[:index]),
            token=token,
            likeliest=answer.likeliest[index] if answer.likeliest else None,
        )
        for prompt, answer in zip(asked.values(), told[: len(asked)], strict=True)
        for index, token in enumerate(answer.tokens)
    ]
    found += (
        Position(
            context=place.context,
            token=answer.tokens[0],
            likeliest=answer.likeliest[0] if answer.likeliest else None,
            expected=place.expected,
        )
        for place, answer in zip(known, told[len(asked) :], strict=True)
    )
    return found


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
    known = [(place, answer) for place, answer in pairs if place.expected is not None]
    right = sum(answer.tokens[0] == place.expected for place, answer in known)
    lost = sum(place.token == place.expected for place, _ in known) - right
    share = max(len(known), 1)
    return Comparison(
        precision=precision,
        positions=len(places),
        agreement=round(agreement, DIGITS),
        divergence=None if divergence is None else round(divergence, DIGITS),
        largest_divergence=round(max(distances), DIGITS) if distances else None,
        right=round(right / share, DIGITS) if known else UNSET,
        lost=round(lost / share, DIGITS) if known else UNSET,
        passed=agreement >= limits.least_agreement
        and (divergence is None or divergence <= limits.most_divergence)
        and lost / share <= limits.most_lost,
    )


def _failed(precision: Precision) -> Comparison:
    """Returns the comparison of an engine that could not be asked: of no position."""
    return Comparison(
        precision=precision,
        positions=0,
        agreement=0.0,
        divergence=None,
        largest_divergence=None,
        passed=False,
    )


def describe(found: Comparison) -> str:
    """Returns one comparison in words."""
    if not found.positions:
        return f"{words(found.precision)}: the engine did not run"
    text = f"{words(found.precision)}: {found.agreement:.1%} of {found.positions} tokens equal"
    if found.divergence is not None:
        text += f", divergence {found.divergence:.4g} nats"
    if found.right is not UNSET and found.lost is not UNSET:
        text += f", known answers {found.right:.1%} right, {found.lost:.1%} lost"
    return text


def describe_limits(limits: GateLimits) -> str:
    """Returns what is asked of a comparison in words."""
    return (
        f"at least {limits.least_agreement:.1%} equal tokens, at most {limits.most_divergence} "
        f"nats, and at most {limits.most_lost:.1%} of the known answers lost"
    )


def words(precision: Precision | profile.Precision) -> str:
    """Returns a precision in words."""
    return (
        f"weights {precision.weights}, activations {precision.activations}, "
        f"KV cache {precision.kv_cache}"
    )


def _accept(
    draft: Engine, wanted: PrecisionGate, reference: Precision, found: list[Comparison], work: Path
) -> Engine:
    if found:
        verdict = Gate(
            reference=reference,
            least_agreement=wanted.limits.least_agreement,
            most_divergence=wanted.limits.most_divergence,
            most_lost=wanted.limits.most_lost,
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
