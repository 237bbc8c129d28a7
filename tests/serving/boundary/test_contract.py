"""What any runtime sends, through its own process and one socket: the same suite for all."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.boundary import engine
from serving.boundary.lifecycle import EngineState, Policy
from serving.boundary.messages import Output, Ready
from serving.boundary.sampling import Sampling
from serving.boundary.supervisor import Supervisor
from serving.control.admission import Admission
from serving.control.callers import ANONYMOUS
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script, Tokens
from serving.events import Finished, PromptLogprobs
from serving.generation.job import Job
from serving.generation.pipeline import Pipeline
from serving.harmony.vocabulary import RETURN, STOP_TOKENS, Vocabulary
from serving.settings import Deadlines
from serving.telemetry.record import Record
from tests.development import Machine
from tests.serving.conftest import RANKS
from tests.serving.engines.trtllm.conftest import DOUBLES, manifest
from tests.serving.engines.trtllm.test_supervised import TORCH

TENSORS = """
class Tensor:
    def __init__(self, array):
        self.shape, self.dtype = array.shape, "torch.float32"

from_numpy = Tensor
"""
POLICY = Policy(load_seconds=60.0)
PROMPT = [3, 5, 13225, 11, 220]
"""To the double of TensorRT-LLM: three tokens, then a stop token."""
LONG = [0, 5, 9]
"""To the double, and to the script: no end."""
WORDS = (13225, 11, 2375)

Make = Callable[[Path], tuple[Path, dict[str, str]]]


def replay(tokens_per_step: int) -> Make:
    def make(root: Path) -> tuple[Path, dict[str, str]]:
        script = Script(
            tokens_per_step=tokens_per_step,
            pace_seconds=0.001,
            scenarios=(
                Scenario(match=tuple(LONG), steps=(Repeat(ids=WORDS),)),
                Scenario(steps=(Tokens(ids=(*WORDS, RETURN)),)),
            ),
        )
        replay_engine.write(root / "engine", script, ranks=RANKS)
        return root / "engine", {}

    return make


def embedded(root: Path) -> tuple[Path, dict[str, str]]:
    machine = Machine(root)
    machine.build()
    return machine.engine, {}


def trtllm(root: Path) -> tuple[Path, dict[str, str]]:
    """Writes an engine for the double, which the process finds as `tensorrt_llm`."""
    packages, directory = root / "packages", root / "engine"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH + TENSORS)
    (directory / "checkpoint").mkdir(parents=True)
    (directory / "cache").mkdir()
    (directory / engine.MANIFEST_NAME).write_bytes(engine.encode(manifest()))
    return directory, {"PYTHONPATH": os.pathsep.join([str(packages), str(DOUBLES)])}


RUNTIMES: dict[str, Make] = {
    "replay": replay(1),
    "replay, four tokens a step": replay(4),
    "embedded": embedded,
    "trtllm": trtllm,
}


@asynccontextmanager
async def running(make: Make, root: Path) -> AsyncGenerator[tuple[Supervisor, Ready]]:
    directory, environment = await asyncio.to_thread(make, root)
    supervisor = Supervisor(directory, POLICY, environment=environment)
    await supervisor.start()
    try:
        assert await supervisor.settled() is EngineState.READY
        assert supervisor.ready is not None
        yield supervisor, supervisor.ready
    finally:
        await supervisor.stop()


async def outputs_of(
    supervisor: Supervisor, prompt: list[int], samplings: list[Sampling]
) -> list[list[Output]]:
    """Returns the outputs of each sequence, in order, to the end of all."""
    stream = supervisor.open(prompt, samplings)
    found: list[list[Output]] = [[] for _ in samplings]
    async with asyncio.timeout(60):
        while batch := await stream.receive():
            for choice, output in batch:
                found[choice].append(output)
    return found


def check(prompt: list[int], sampling: Sampling, outputs: list[Output]) -> None:
    """Asserts what `Output` and `Runtime` promise of one sequence."""
    *before, last = outputs
    assert not any(output.finish or output.fault for output in before)
    assert last.finish in ("stop", "length")
    tokens = [token for output in outputs for token in output.tokens]
    assert len(tokens) <= sampling.max_tokens
    assert (last.finish == "length") == (
        len(tokens) == sampling.max_tokens and tokens[-1] not in sampling.stop_token_ids
    )
    assert not set(tokens[:-1]) & set(sampling.stop_token_ids)
    assert not any(output.cached_tokens for output in outputs[1:])
    assert 0 <= outputs[0].cached_tokens <= len(prompt)
    for output in outputs:
        if sampling.logprobs is None:
            assert output.logprobs is None
            continue
        assert len(output.logprobs or ()) == len(output.tokens)
        for logprob in output.logprobs or ():
            assert logprob.logprob <= 0
            assert len(logprob.top) == sampling.logprobs
    scored = [one for output in outputs for one in output.prompt_logprobs or ()]
    assert len(scored) == (0 if sampling.prompt_logprobs is None else len(prompt) - 1)
    first = next((i for i, output in enumerate(outputs) if output.tokens), len(outputs))
    assert not any(output.prompt_logprobs for output in outputs[first + 1 :])


class Records(list[Record]):
    """What the pipeline recorded."""

    def record(self, record: Record) -> None:
        self.append(record)


def plain(capabilities: tuple[str, ...]) -> list[Sampling]:
    stops: dict[str, Any] = {"stop_token_ids": STOP_TOKENS, "temperature": 0.0}
    found = [
        Sampling(max_tokens=20, **stops),
        Sampling(max_tokens=1, **stops),
        Sampling(max_tokens=6, logprobs=0, **stops),
        Sampling(max_tokens=6, logprobs=3, **stops),
        Sampling(max_tokens=5),
        Sampling(max_tokens=5, seed=1, temperature=1.0, top_k=5, top_p=0.9, min_p=0.01),
        Sampling(max_tokens=5, frequency_penalty=1.0, repetition_penalty=1.2),
        Sampling(max_tokens=5, ignore_eos=True, min_tokens=5, **stops),
        Sampling(max_tokens=5, logit_bias={13225: -5.0}),
    ]
    if "prompt_logprobs" in capabilities:
        found += [
            Sampling(max_tokens=4, prompt_logprobs=0, logprobs=0, **stops),
            Sampling(max_tokens=1, prompt_logprobs=2, **stops),
        ]
    return found


@pytest.mark.parametrize("make", RUNTIMES.values(), ids=RUNTIMES.keys())
async def test_a_runtime_keeps_to_the_contract(
    make: Make, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    async with running(make, tmp_path) as (supervisor, ready):
        for prompt in (PROMPT, PROMPT[:2], PROMPT * 8):
            samplings = plain(ready.capabilities)
            together = await outputs_of(supervisor, prompt, samplings)
            for sampling, outputs in zip(samplings, together, strict=True):
                check(prompt, sampling, outputs)

        # What cannot run is refused by itself, in one output.
        long = [*range(10)] * ready.max_seq_len
        for prompt, sampling in ((long, Sampling(max_tokens=1)), ([1], Sampling(max_tokens=0))):
            ((refused,),) = await outputs_of(supervisor, prompt, [sampling])
            assert (refused.tokens, refused.finish) == ([], "error")
            assert refused.fault is not None
            assert refused.fault.kind == "invalid"

        # One of two that has no end is cancelled; the other goes on until it is closed.
        endless = Sampling(max_tokens=200, ignore_eos=True)
        stream = supervisor.open(LONG, [endless, endless])
        while not {choice for choice, _ in await stream.receive()}:
            pass
        stream.cancel(0)
        assert {choice for choice, _ in await stream.receive()} == {1}
        stream.close()
        due = time.monotonic() + 20
        while (await supervisor.stats()).running:
            assert time.monotonic() < due
        await jobs_come_to_their_end(supervisor, ready, vocabulary)


async def jobs_come_to_their_end(
    supervisor: Supervisor, ready: Ready, vocabulary: Vocabulary
) -> None:
    """Runs jobs through the pipeline, as every protocol does."""
    records = Records()
    pipeline = Pipeline(
        supervisor, vocabulary, Admission(8, 8), Deadlines(), records, time.monotonic
    )
    scores = "prompt_logprobs" in ready.capabilities
    sampling = Sampling(
        max_tokens=8, logprobs=1, prompt_logprobs=1 if scores else None, ignore_eos=True
    )
    job = Job(
        id="job", caller=ANONYMOUS, prompt=PROMPT, sampling=sampling, choices=3, harmony=False
    )
    ends: dict[int, Finished] = {}
    scored = dict.fromkeys(range(3), 0)
    async for batch in pipeline.run(job):
        for choice, event in batch:
            if isinstance(event, PromptLogprobs):
                scored[choice] += len(event.logprobs)
            elif isinstance(event, Finished):
                ends[choice] = event
    assert len(ends) == 3
    assert set(scored.values()) == {len(PROMPT) - 1 if scores else 0}
    (record,) = records
    assert record.outcome == "ok"
    assert record.completion_tokens == sum(end.usage.completion_tokens for end in ends.values())
