"""Runs an engine as the service would, in a process of its own, and asks it token by token.

A process of its own, because what one engine sets in its environment or leaves on a GPU must not
reach the next one that a build starts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_build.failure import BuildError, ExitCode
from serving.boundary.contract import EngineHandle, SequenceStream
from serving.boundary.lifecycle import EngineState, Policy
from serving.boundary.messages import Output
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.errors import ServingError
from serving.harmony.vocabulary import CALL, RETURN

ALTERNATIVES = 20
"""As many likeliest tokens as a request may ask for."""
_ORDINARY = 199_998
"""Ids below it are text in every GPT-OSS vocabulary."""


class Batch(msgspec.Struct, frozen=True):
    """Sequences that run at once, and how long their prompts are."""

    sequences: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and how many tokens of its greedy answer are wanted."""

    prompt: tuple[int, ...]
    max_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens, and for each the log-probabilities of the likeliest.

    `likeliest` is empty where the runtime gives no log-probabilities.
    """

    tokens: tuple[int, ...]
    likeliest: tuple[dict[int, float], ...] = ()


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Supervisor]:
    """Starts the engine of a directory, and ends it with the context.

    Raises BuildError (DATA) with the engine's own words when it does not start.
    """
    supervisor = Supervisor(directory, Policy(max_failures=1))
    await supervisor.start()
    try:
        if await supervisor.settled() is not EngineState.READY:
            end = supervisor.history[-1]
            raise BuildError(
                ExitCode.DATA, f"{directory} does not start: {end.detail or end.cause.value}"
            )
        yield supervisor
    finally:
        await supervisor.stop()


def ask(directory: Path, questions: Sequence[Question]) -> list[Answer]:
    """Returns the answers of the engine of a directory. One question at a time, so that no answer
    depends on its neighbours. Raises BuildError."""
    return asyncio.run(_ask(directory, questions))


async def _ask(directory: Path, questions: Sequence[Question]) -> list[Answer]:
    async with running(directory) as supervisor:
        ready = supervisor.ready
        known = ready is not None and "logprobs" in ready.capabilities
        try:
            return [await answer(supervisor, one, logprobs=known) for one in questions]
        except ServingError as error:
            raise BuildError(ExitCode.DATA, f"{directory} stopped: {error}") from None


async def answer(engine: EngineHandle, question: Question, *, logprobs: bool) -> Answer:
    """Returns one answer. Raises BuildError (DATA) when the engine fails the question alone,
    ServingError when it is lost."""
    sampling = Sampling(
        max_tokens=question.max_tokens,
        temperature=0.0,
        stop_token_ids=(RETURN, CALL),
        logprobs=ALTERNATIVES if logprobs else None,
    )
    stream = engine.open(list(question.prompt), [sampling])
    tokens: list[int] = []
    likeliest: list[dict[int, float]] = []
    try:
        async for output in _outputs(stream, "a prompt"):
            tokens.extend(output.tokens)
            for token, entry in zip(output.tokens, output.logprobs or (), strict=False):
                likeliest.append({token: entry.logprob, **dict(entry.top)})
    finally:
        stream.close()
    return Answer(tuple(tokens), tuple(likeliest))


async def run_batch(
    engine: EngineHandle, batch: Batch, decoded_tokens: int, ids: random.Random
) -> int:
    """Runs a batch of made-up prompts and returns the tokens decoded. Raises BuildError.

    The prompts are new, so that no cached prefix shortens them.
    """
    sampling = Sampling(max_tokens=decoded_tokens, temperature=0.0, ignore_eos=True)
    what = f"{batch.sequences} prompts of {batch.prompt_tokens} tokens"
    streams = [
        engine.open([ids.randrange(_ORDINARY) for _ in range(batch.prompt_tokens)], [sampling])
        for _ in range(batch.sequences)
    ]
    tokens = 0
    try:
        for stream in streams:
            async for output in _outputs(stream, what):
                tokens += len(output.tokens)
    finally:
        for stream in streams:
            stream.close()
    return tokens


async def _outputs(stream: SequenceStream, what: str) -> AsyncIterator[Output]:
    """Yields what a sequence gives. Raises BuildError (DATA) when the engine fails it."""
    while outputs := await stream.receive():
        for _, output in outputs:
            if output.fault is not None:
                raise BuildError(ExitCode.DATA, f"the engine failed {what}: {output.fault.message}")
            yield output
