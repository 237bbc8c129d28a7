"""Runs a built engine once: fixed prompts, greedy, so that `verify` can run them again.

The answers are recorded in engine.json. They show that the engine loads and generates at all, and
whether it still says on this machine what it said when it was built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine_build.difference import equal_tokens
from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden_prompts, probe, ranks
from engine_build.proof.probe import Question
from serving.boundary import engine
from serving.boundary.engine import Engine, Golden


def record(directory: Path, built: Engine) -> tuple[Golden, ...]:
    """Returns the greedy answers of the engine in a directory to the golden prompts."""
    asked = golden_prompts.prompts(directory / engine.RANKS_PATH)
    answers = _answer(directory, built, list(asked.values()))
    return tuple(
        Golden(name=name, prompt=tuple(prompt), tokens=tokens)
        for (name, prompt), tokens in zip(asked.items(), answers, strict=True)
    )


def check(directory: Path, built: Engine) -> None:
    """Raises BuildError (DATA) naming the first golden prompt whose answer has changed."""
    answers = _answer(directory, built, [golden.prompt for golden in built.golden])
    for golden, tokens in zip(built.golden, answers, strict=True):
        if tokens != golden.tokens:
            same = equal_tokens(tokens, golden.tokens)
            raise BuildError(
                ExitCode.DATA,
                f"{directory / engine.MANIFEST_NAME}: golden.{golden.name}: the engine gives "
                f"another token at position {same}",
                "Build the engine on this machine again",
            )


def _answer(
    directory: Path, built: Engine, asked: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Returns the greedy tokens for each prompt."""
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build.weights import contents

    if contents.is_cut(built.runtime, built.mesh):
        return [tuple(tokens) for tokens in ranks.answer(directory, built, list(map(list, asked)))]
    questions = [Question(tuple(prompt), golden_prompts.MAX_TOKENS) for prompt in asked]
    return [answer.tokens for answer in probe.ask(directory, questions)]
