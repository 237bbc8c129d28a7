"""The environment that TensorRT-LLM and its workers read, set before it is imported.

Variable names as in tensorrt_llm/_bootstrap.py (pull request 18897, which sets the same ones from
TRTLLM_CACHE_DIR where it is merged) and tensorrt_llm/usage/usage_lib.py, read in no release. A list
of variables (tensorrt_llm/envs.py at 0fccc5b97dd7) has the autotuner's, but is of a branch.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from serving.boundary.engine import CACHE_DIRECTORY

_AUTOTUNER = "TLLM_AUTOTUNER_CACHE_PATH"

_CACHES = {
    _AUTOTUNER: "autotuner/cache.json",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUTE_DSL_CACHE_DIR": "cute_dsl",
    "TRTLLM_DG_CACHE_DIR": "trtllm_deep_gemm",
    "CUDA_CACHE_PATH": "cuda",
}
"""Where each kind of tuned or compiled code is kept, below the engine's cache directory."""

_ALONE = {"FLASHINFER_WORKSPACE_BASE": "flashinfer", "DG_JIT_CACHE_DIR": "deep_gemm"}
"""Kept there only with one rank: ranks that compile one kernel at once break each other's, so
TensorRT-LLM gives each rank a place of its own, unless these are set (pull requests 17233 and 18278
for FlashInfer; TRTLLM_DEEP_GEMM_CACHE_PER_PROCESS, on by default, for DeepGEMM)."""


def variables(directory: Path, ranks: int) -> dict[str, str]:
    """Returns the variables for an engine directory that runs on this many ranks.

    Without a cache directory that can be written, the libraries' own defaults stay: a start then
    tunes and compiles again.
    """
    chosen = {"TRTLLM_NO_USAGE_STATS": "1"}
    cache = directory / CACHE_DIRECTORY
    if cache.is_dir() and os.access(cache, os.W_OK):
        kept = _CACHES | _ALONE if ranks == 1 else _CACHES
        chosen |= {name: str(cache.resolve() / path) for name, path in kept.items()}
    return chosen


def prepare(directory: Path, ranks: int, environment: MutableMapping[str, str]) -> dict[str, str]:
    """Adds the variables to `environment`; what is set already stays. Returns those that hold.

    Workers that MPI starts get only TLLM* and TRTLLM* from TensorRT-LLM itself, so the result goes
    into the LLM argument `env_overrides` too.
    """
    wanted = variables(directory, ranks)
    for name, value in wanted.items():
        environment.setdefault(name, value)
    autotuner = wanted.get(_AUTOTUNER)
    if autotuner is not None and environment[_AUTOTUNER] == autotuner:
        Path(autotuner).parent.mkdir(exist_ok=True)  # It writes a file and makes no directory.
    return {name: environment[name] for name in wanted}
