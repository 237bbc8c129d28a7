"""`TrtllmRuntime`: an engine directory on TensorRT-LLM."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from pydantic import ValidationError

from serving.boundary import engine
from serving.boundary.engine import MANIFEST_NAME, Engine, EngineError
from serving.boundary.messages import Generate, Output, Ready, Stats, Step
from serving.engines.trtllm import (
    arguments,
    environment,
    failures,
    gate,
    host_memory,
    outputs,
    sampling,
)
from serving.engines.trtllm import library as installed
from serving.engines.trtllm.host_memory import HostMemory
from serving.engines.trtllm.library import Library, Llm
from serving.engines.trtllm.statistics import Statistics
from serving.engines.trtllm.streams import Streams, Submission

WAIT_SECONDS = 0.005
"""How long `step` waits for a result."""

_CLOSE_SECONDS = 2.0
"""Twice, it stays within what the host grants a runtime whose parent has gone."""


class TrtllmRuntime:
    """A `Runtime` over a loaded `tensorrt_llm.LLM`."""

    def __init__(
        self, manifest: Engine, llm: Llm, library: Library, *, guided: bool, load_seconds: float
    ) -> None:
        self._manifest = manifest
        self._llm = llm
        self._library = library
        self._load_seconds = load_seconds
        self._rules = sampling.rules(
            manifest.arguments, vocab_size=manifest.architecture.vocab_size, tokenizer=guided
        )
        # Empty where the cache manager does not tell; reports of iterations tell the blocks then.
        capacity = llm.get_kv_cache_capacity()
        self._block_tokens = int(capacity.get("tokensPerBlock") or manifest.kv_cache.block_tokens)
        self._blocks = int(capacity.get("maxNumBlocks") or 0)
        self._statistics = Statistics(self._blocks)
        self._live: set[int] = set()
        self._refused: list[Output] = []
        self._streams = Streams(llm)
        self._streams.start()

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        library: Library | None = None,
        variables: MutableMapping[str, str] = os.environ,
        memory: HostMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> TrtllmRuntime:
        """Returns the runtime of an engine directory, loaded and warmed.

        Raises EngineError when the engine does not belong on this machine, FatalError when
        TensorRT-LLM fails to start it.
        """
        began = clock()
        manifest = engine.read(directory)
        workers = environment.prepare(directory, manifest.mesh.tensor_parallel, variables)
        library = library or installed.load()
        gate.check_version(manifest, library.version, variables)
        gate.check_devices(manifest, library.device_names())
        memory = memory or host_memory.read()
        llm = _start(library, arguments.compose(manifest, directory, workers, memory))
        return cls(
            manifest,
            llm,
            library,
            guided=arguments.has_tokenizer(directory),
            load_seconds=clock() - began,
        )

    def ready(self) -> Ready:
        """Returns the engine's limits, and what of sampling its arguments leave possible."""
        limits, device = self._manifest.limits, self._manifest.device
        return Ready(
            runtime="trtllm",
            runtime_version=self._library.version,
            max_batch_size=limits.max_batch_size,
            max_num_tokens=limits.max_num_tokens,
            max_seq_len=limits.max_seq_len,
            block_tokens=self._block_tokens,
            blocks=self._blocks,
            device=f"{device.count} x {device.kind}",
            load_seconds=self._load_seconds,
            capabilities=self._rules.capabilities,
        )

    def submit(self, request: Generate) -> None:
        """Gives a sequence to TensorRT-LLM, which queues it by its own policy."""
        wrong = self._wrong_with(request)
        if not wrong:
            try:
                parameters = sampling.compose(request.sampling, self._library, self._rules)
            except ValueError as error:
                wrong = failures.public(error)
        if wrong:
            self._refused.append(outputs.failure(request.id, "invalid", wrong))
            return
        self._live.add(request.id)
        self._statistics.started(len(request.prompt))
        self._streams.submit(
            Submission(
                request.id,
                request.prompt,
                parameters,
                request.priority,
                request.cache_salt,
                request.sampling.logprobs,
            )
        )

    def abort(self, sequence_id: int) -> None:
        """Forgets a sequence at once; TensorRT-LLM frees its blocks with its next iteration."""
        if sequence_id in self._live:
            self._live.discard(sequence_id)
            self._statistics.ended(sequence_id)
            self._streams.abort(sequence_id)
        self._refused = [output for output in self._refused if output.id != sequence_id]

    @property
    def busy(self) -> bool:
        """True while there is a sequence, or the fault of one that was refused."""
        return bool(self._live or self._refused)

    def step(self) -> Step | None:
        """Returns what arrived since the last call, after waiting for it a few milliseconds.

        Raises FatalError when the engine is lost.
        """
        refused, self._refused = self._refused, []
        arrival = self._streams.take(0.0 if refused else WAIT_SECONDS)
        for iteration in arrival.iterations:
            self._statistics.report(iteration)
        # What arrived for a sequence before it was aborted is not its business any more.
        arrived = [output for output in arrival.outputs if output.id in self._live]
        if arrived:
            self._statistics.stepped(arrived)
            self._live -= {output.id for output in arrived if output.finish}
        return Step(refused + arrived) if refused or arrived else None

    def stats(self) -> Stats:
        """Returns gauges and counters. Raises FatalError when the engine is lost.

        An idle engine is asked for nothing else, so its death is found here.
        """
        self._streams.check()
        return self._statistics.stats(len(self._live))

    def close(self) -> None:
        """Ends the workers, or gives up on them: the process leaves in any case."""
        self._live.clear()
        self._streams.close(_CLOSE_SECONDS)
        ending = threading.Thread(target=self._llm.shutdown, name="trtllm-shutdown", daemon=True)
        ending.start()
        ending.join(_CLOSE_SECONDS)

    def _wrong_with(self, request: Generate) -> str:
        """Returns why a request cannot run, or "" when it can.

        TensorRT-LLM would find most of it too, but it counts every failed request towards the
        errors after which it gives itself up (pull request 12718).
        """
        limits = self._manifest.limits
        vocab_size = self._rules.vocab_size
        tokens = len(request.prompt)
        if not tokens:
            return "The prompt has no tokens."
        if tokens >= limits.max_seq_len:
            return (
                f"The prompt has {tokens} tokens; this engine holds sequences of "
                f"{limits.max_seq_len} tokens."
            )
        chunked = self._manifest.arguments.get("enable_chunked_prefill")
        if tokens > limits.max_num_tokens and not chunked:
            return (
                f"The prompt has {tokens} tokens; this engine takes {limits.max_num_tokens} at "
                "once and was built without chunked prefill."
            )
        if min(request.prompt) < 0 or max(request.prompt) >= vocab_size:
            return f"The prompt has a token outside the vocabulary of {vocab_size}."
        if not 0.0 <= request.priority <= 1.0:
            return "The priority must be from 0 to 1."
        return sampling.refusal(request.sampling, self._rules)


def _start(library: Library, keywords: dict[str, object]) -> Llm:
    """Returns the loaded LLM: weights, KV cache, tuned kernels and CUDA graphs.

    Raises EngineError for arguments that this version does not know, else FatalError.
    """
    try:
        return library.llm(**keywords)
    except ValidationError as error:
        problems = "; ".join(
            f"arguments.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        )
        raise EngineError(
            f"{MANIFEST_NAME}: TensorRT-LLM {library.version} does not take {problems}"
        ) from error
    except Exception as error:
        raise failures.fatal(error, "starting TensorRT-LLM") from error
