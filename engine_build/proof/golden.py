"""Runs a built engine once: fixed prompts, greedy, so that `verify` can run them again.

The answers are recorded in engine.json. They show that the engine loads and generates at all, and
whether it still says on this machine what it said when it was built.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden_prompts, ranks
from serving.boundary import engine
from serving.boundary.child import ENVIRONMENT
from serving.boundary.contract import Runtime
from serving.boundary.engine import Engine, Golden
from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.host import RUNTIMES, Loadable


def record(directory: Path, built: Engine) -> tuple[Golden, ...]:
    """Returns the greedy answers of the engine in a directory to the golden prompts."""
    asked = golden_prompts.prompts(directory / engine.RANKS_PATH)
    answers = _answer(directory, built, list(asked.values()))
    return tuple(
        Golden(name=name, prompt=tuple(prompt), tokens=tuple(tokens))
        for (name, prompt), tokens in zip(asked.items(), answers, strict=True)
    )


def check(directory: Path, built: Engine) -> None:
    """Raises BuildError (DATA) that names the first golden prompt with another answer than then."""
    answers = _answer(directory, built, [list(golden.prompt) for golden in built.golden])
    for golden, tokens in zip(built.golden, answers, strict=True):
        if tuple(tokens) != golden.tokens:
            same = next(
                (
                    i
                    for i, pair in enumerate(zip(tokens, golden.tokens, strict=False))
                    if pair[0] != pair[1]
                ),
                min(len(tokens), len(golden.tokens)),
            )
            raise BuildError(
                ExitCode.DATA,
                f"{directory / engine.MANIFEST_NAME}: golden.{golden.name}: the engine gives "
                f"another token at position {same}",
                "Build the engine on this machine again",
            )


def _answer(directory: Path, built: Engine, asked: Sequence[list[int]]) -> list[list[int]]:
    """Returns the greedy tokens for each prompt. The prompts run one after the other, so that an
    answer does not depend on its neighbours."""
    if built.runtime == "embedded" and built.mesh.tensor_parallel > 1:
        return ranks.answer(directory, built, asked)
    runtime = _load(directory, built)
    try:
        return [_generate(runtime, number, prompt) for number, prompt in enumerate(asked)]
    finally:
        runtime.close()


def _generate(runtime: Runtime, number: int, prompt: list[int]) -> list[int]:
    sampling = Sampling(
        max_tokens=golden_prompts.MAX_TOKENS, temperature=0.0, stop_token_ids=golden_prompts.STOP
    )
    runtime.submit(Generate(id=number, prompt=prompt, sampling=sampling))
    tokens: list[int] = []
    while runtime.busy:
        step = runtime.step()
        for output in step.outputs if step else ():
            if output.fault is not None:
                raise BuildError(
                    ExitCode.DATA, f"the engine failed a golden prompt: {output.fault.message}"
                )
            tokens.extend(output.tokens)
    return tokens


def _load(directory: Path, built: Engine) -> Runtime:
    """Returns the engine's runtime, loaded in this process."""
    for (
        variable,
        value,
    ) in ENVIRONMENT.items():  # as the engine process has it, before torch reads it
        os.environ.setdefault(variable, value)
    module, _, name = RUNTIMES[built.runtime].partition(":")
    try:
        kind: Loadable = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise BuildError(
            ExitCode.UNAVAILABLE, f"the {built.runtime} runtime cannot be imported: {error}"
        ) from error
    try:
        return kind.load(directory)
    except Exception as error:
        raise BuildError(
            ExitCode.DATA, f"the {built.runtime} runtime does not load {directory}: {error}"
        ) from error
