"""What is used of TensorRT-LLM, and the only place in `serving` that imports it.

The constructor's names are as in NVIDIA's reference of 1.4.0rc4, its defaults as in that of
1.4.0rc1; the calls, as in older release candidates (tests/serving/engines/trtllm/calls.json).
`Completion` and `Result` were read in the source of 1.3.0rc29 (executor/result.py); `shutdown` and
`_check_health`, in that of 1.3.0rc28, and so was one refusal of `generate_async`; its others, in no
release.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.boundary.engine import EngineError


class TokenLogprob(Protocol):
    """`tensorrt_llm.executor.result.Logprob`."""

    logprob: float


class Completion(Protocol):
    """`CompletionOutput`: the tokens of a sequence so far. Mutated by every iteration."""

    finish_reason: str | None
    """`stop`, `length`, `timeout`, `cancelled`, or None while the sequence runs."""

    @property
    def token_ids_diff(self) -> Sequence[int]:
        """What the latest iteration added."""
        ...

    @property
    def logprobs_diff(self) -> Sequence[Mapping[int, TokenLogprob]]:
        """An entry a token of `token_ids_diff`: the likeliest tokens, and the sampled one."""
        ...


class Result(Protocol):
    """`RequestOutput`. Iterating yields the same object again and again."""

    outputs: Sequence[Completion]
    cached_tokens: int

    @property
    def error(self) -> str | None:
        """Why the request failed, when it did and nothing was raised."""
        ...

    def abort(self) -> None:
        """Asks for the end; a final iteration with `cancelled` follows."""
        ...

    def __aiter__(self) -> AsyncIterator[Result]:
        """Raises EngineDeadError when a worker died, RequestError when this request failed."""
        ...


class Llm(Protocol):
    """`tensorrt_llm.LLM`, where this runtime uses it."""

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: Any = None,
        *,
        streaming: bool = False,
        cache_salt: str | None = None,
        priority: float = 0.5,
    ) -> Result:
        """Queues a request. Has to be called inside the event loop that will iterate it.

        Raises ValueError and RequestError for what it refuses, RuntimeError when shutting down.
        """
        ...

    def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        """Iterates over what the executor reports of its iterations, until none comes for
        `timeout` seconds."""
        ...

    def get_kv_cache_capacity(self) -> Mapping[str, int]:
        """Returns maxNumBlocks, tokensPerBlock and maxNumTokens of the GPU's pool; or nothing,
        where the cache manager does not tell (py_executor.py of mid-2026)."""
        ...

    def shutdown(self) -> None:
        """Ends the workers. Has been seen to block for ever."""
        ...

    def _check_health(self) -> bool:
        """False once the executor or a worker is dead; trtllm-serve's /health is this."""
        ...


@dataclass(frozen=True, slots=True)
class Library:
    """TensorRT-LLM as it is installed here."""

    version: str
    llm: Callable[..., Llm]
    sampling_params: Callable[..., Any]
    guided_decoding_params: Callable[..., Any]
    schema_grammar: Callable[[str], str]
    """The EBNF that TensorRT-LLM's own xgrammar makes of a JSON schema (`Grammar` in its
    python/xgrammar/grammar.py). Raises RuntimeError."""
    tensor: Callable[[NDArray[np.float32]], Any]
    """A torch.Tensor over an array's memory: what the executor's C++ side takes for a bias."""
    device_names: Callable[[], list[str]]
    """The GPUs that this process sees, in order, by product name."""


def load() -> Library:
    """Imports TensorRT-LLM: half a minute, and MPI starts. Its environment has to be set before.

    Raises EngineError when it is not installed or does not work here.
    """
    try:
        import tensorrt_llm
        import torch
        from tensorrt_llm.llmapi import GuidedDecodingParams
    except (ImportError, OSError) as error:  # OSError: a shared library of CUDA or MPI.
        raise EngineError(
            f"TensorRT-LLM cannot be imported here: {error}. Use its release container, or an "
            "engine of the embedded runtime"
        ) from error
    return Library(
        version=str(tensorrt_llm.__version__),
        llm=tensorrt_llm.LLM,
        sampling_params=tensorrt_llm.SamplingParams,
        guided_decoding_params=GuidedDecodingParams,
        schema_grammar=_schema_grammar,
        tensor=lambda array: torch.from_numpy(array),
        device_names=lambda: [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    )


def _schema_grammar(schema: str) -> str:
    import xgrammar  # TensorRT-LLM has imported it by then.

    return str(xgrammar.Grammar.from_json_schema(schema))
