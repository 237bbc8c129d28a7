"""The engines that are compared, behind three methods: load, generate, close.

To add one (vLLM's CPU build, llama.cpp), write a class with these methods, import its package
inside them, and enter it in CONTENDERS. A contender runs alone in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.timeline import Timeline

# No engine may stop before it has made all the tokens that are timed.
NEVER_STOPS = -1
BATCH = 16
CHUNK_TOKENS = 512
BLOCK_TOKENS = 32
CACHE_TOKENS = 32_768


class Contender(Protocol):
    """One engine."""

    def load(self, checkpoint: Path, dtype: str) -> None:
        """Makes the engine ready to generate, in `bfloat16` or `float32`."""
        ...

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        """Returns `max_tokens` greedy tokens for each prompt, all prompts submitted at once."""
        ...

    def close(self) -> None:
        """Ends what the engine runs in the background."""
        ...


class Embedded:
    """This repository's runtime, driven as the engine process drives it."""

    def __init__(self) -> None:
        self._runtime: Any = None

    def load(self, checkpoint: Path, dtype: str) -> None:
        """Loads with the limits that all contenders share."""
        from benchmarks.runtime import open_runtime

        self._runtime = open_runtime(
            checkpoint,
            max_batch_size=BATCH,
            max_num_tokens=CHUNK_TOKENS,
            cache_tokens=CACHE_TOKENS,
            dtype=dtype,
        )

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        """Steps until every sequence has finished."""
        from benchmarks.runtime import run

        return run(self._runtime, prompts, max_tokens)

    def close(self) -> None:
        """Frees the runtime."""
        self._runtime.close()


class Engine(Embedded):
    """The same with an engine directory, whose limits and precision hold."""

    def load(self, checkpoint: Path, dtype: str) -> None:
        """Loads as the engine process does; `dtype` is the engine's."""
        from serving.engines.embedded.runtime import EmbeddedRuntime

        self._runtime = EmbeddedRuntime.load(checkpoint)


class Transformers:
    """transformers' ContinuousBatchingManager, eager paged attention, streaming.

    `settings` are fields of its ContinuousBatchingConfig; those not given are its own choice.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._manager: Any = None

    def load(self, checkpoint: Path, dtype: str) -> None:
        """MXFP4 experts are unpacked: its CPU path has nothing else."""
        from transformers import AutoModelForCausalLM
        from transformers.generation.configuration_utils import (
            ContinuousBatchingConfig,
            GenerationConfig,
        )
        from transformers.utils.quantization_config import Mxfp4Config

        packed = '"mxfp4"' in (checkpoint / "config.json").read_text()
        plain = {"quantization_config": Mxfp4Config(dequantize=True)} if packed else {}
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, attn_implementation="eager", **plain
        )
        settings = GenerationConfig(do_sample=False, eos_token_id=NEVER_STOPS)  # type: ignore[no-untyped-call]
        self._manager = model.init_continuous_batching(
            generation_config=settings,
            continuous_batching_config=ContinuousBatchingConfig(**self._settings),
        )
        self._manager.start()

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        """Submits all prompts and reads the stream of cumulative results."""
        start = time.perf_counter()
        names = [
            self._manager.add_request(list(prompt), max_new_tokens=max_tokens, streaming=True)
            for prompt in prompts
        ]
        timeline = Timeline([[] for _ in prompts], [[] for _ in prompts])
        rows = {name: row for row, name in enumerate(names)}
        while rows:
            result = self._next()
            now = time.perf_counter() - start
            row = rows[result.request_id]
            fresh = result.generated_tokens[len(timeline.tokens[row]) :]
            timeline.tokens[row].extend(fresh)
            timeline.seconds[row].extend([now] * len(fresh))
            if result.is_finished():
                del rows[result.request_id]
        return timeline

    def _next(self) -> Any:
        result = self._manager.get_result(timeout=60.0)
        if result is None:
            raise RuntimeError("the manager of transformers gave nothing for a minute")
        if result.error is not None:
            raise RuntimeError(result.error)
        return result

    def close(self) -> None:
        """Stops the manager's thread."""
        self._manager.stop(block=True, timeout=10.0)


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "embedded": Embedded,
    # The same with another checkpoint.
    "embedded-int8": Embedded,
    "engine": Engine,
    # As it comes, which is with whole prompts of up to 8,192 tokens in one step; but its cache is
    # not let to take nine tenths of the machine's memory.
    "transformers": partial(Transformers, num_blocks=CACHE_TOKENS // 256),
    # With the chunk, the block and the cache of the embedded runtime, which suit it far better.
    "transformers-tuned": partial(
        Transformers,
        page_size=BLOCK_TOKENS,
        num_blocks=CACHE_TOKENS // BLOCK_TOKENS,
        max_batch_tokens=CHUNK_TOKENS,
        max_requests_per_batch=BATCH,
    ),
}
