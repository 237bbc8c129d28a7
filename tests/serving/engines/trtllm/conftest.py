"""Fixtures: TensorRT-LLM's contract double, engines for it, and the runtime over both."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
import torch

from serving.boundary import engine
from serving.boundary.engine import (
    CudaGraphs,
    Device,
    Engine,
    KvCache,
    Limits,
    Mesh,
    Model,
    Precision,
)
from serving.boundary.messages import Generate, Output
from serving.boundary.sampling import Sampling
from serving.engines.replay import directory as replay_engine
from serving.engines.trtllm import TrtllmRuntime
from serving.engines.trtllm.host_memory import HostMemory
from serving.engines.trtllm.library import Library

DOUBLES = Path(__file__).parents[3] / "doubles"
KIND = "NVIDIA H100 80GB HBM3"
STOP = 200_002
LIMITS = Limits(max_batch_size=8, max_num_tokens=64, max_seq_len=256)
ARGUMENTS: dict[str, Any] = {
    "tensor_parallel_size": 2,
    "moe_expert_parallel_size": 2,
    "max_batch_size": LIMITS.max_batch_size,
    "max_num_tokens": LIMITS.max_num_tokens,
    "max_seq_len": LIMITS.max_seq_len,
    "enable_chunked_prefill": True,
    "enable_iter_perf_stats": True,
    "guided_decoding_backend": "xgrammar",
}
TIMEOUT_SECONDS = 20.0

WriteEngine = Callable[..., Path]

GRAMMARS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("grammars.json").read_text("utf-8")
)
"""What `str(xgrammar.Grammar.from_json_schema(schema))` of xgrammar 0.1.32 is."""


def schema_grammar(schema: str) -> str:
    """Returns what the recorded xgrammar makes of a schema."""
    asked = json.loads(schema)
    (found,) = [one["grammar"] for one in GRAMMARS if one["schema"] == asked]
    return str(found)


def manifest(arguments: dict[str, Any] | None = None, **changes: Any) -> Engine:
    """Returns a manifest of the production shape with small limits."""
    plain = Engine(
        schema_version=engine.SCHEMA_VERSION,
        name="gpt-oss-120b-2xh100",
        runtime="trtllm",
        runtime_version="1.4.0rc4",
        model=Model(name="openai/gpt-oss-120b", repository="openai/gpt-oss-120b", revision="r"),
        architecture=replay_engine.ARCHITECTURE,
        precision=Precision(weights="mxfp4", activations="bf16", kv_cache="auto"),
        mesh=Mesh(tensor_parallel=2, expert_parallel=2),
        limits=LIMITS,
        kv_cache=KvCache(block_tokens=32, free_memory_fraction=0.8),
        cuda_graphs=CudaGraphs(batch_sizes=(1, 2, 4, 8)),
        device=Device(kind=KIND, count=2),
        arguments=ARGUMENTS | (arguments or {}),
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def write_engine(tmp_path: Path) -> WriteEngine:
    """Returns a function that writes an engine directory of a manifest's arguments and fields."""

    def write(
        arguments: dict[str, Any] | None = None, *, tokenizer: bool = True, **changes: Any
    ) -> Path:
        directory = tmp_path / "engine"
        (directory / "checkpoint").mkdir(parents=True)
        (directory / "cache").mkdir()
        if tokenizer:
            (directory / "checkpoint" / "tokenizer.json").write_text("{}")
        (directory / engine.MANIFEST_NAME).write_bytes(
            engine.encode(manifest(arguments, **changes))
        )
        return directory

    return write


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Returns the double as the module `tensorrt_llm`, for this test only."""
    monkeypatch.syspath_prepend(str(DOUBLES))
    with patch.dict(os.environ):  # It writes its `env_overrides` there, as the real one does.
        yield importlib.import_module("tensorrt_llm")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@pytest.fixture
def executor(double: ModuleType) -> ModuleType:
    """Returns the double's `tensorrt_llm.executor`."""
    return importlib.import_module(f"{double.__name__}.executor")


@pytest.fixture
def library(double: ModuleType) -> Library:
    """Returns the double as the installed library, on two GPUs."""
    return Library(
        version=double.__version__,
        llm=double.LLM,
        sampling_params=double.SamplingParams,
        guided_decoding_params=importlib.import_module(
            f"{double.__name__}.llmapi"
        ).GuidedDecodingParams,
        schema_grammar=schema_grammar,
        tensor=torch.from_numpy,
        device_names=lambda: [KIND, KIND],
    )


@pytest.fixture
def load(write_engine: WriteEngine, library: Library) -> Iterator[Callable[..., TrtllmRuntime]]:
    """Returns a function that loads a runtime over the double; afterwards all are closed."""
    loaded: list[TrtllmRuntime] = []

    def make(arguments: dict[str, Any] | None = None, **changes: Any) -> TrtllmRuntime:
        directory = write_engine(arguments, **changes)
        memory = HostMemory(lockable_bytes=None, free_bytes=None)
        loaded.append(TrtllmRuntime.load(directory, library=library, variables={}, memory=memory))
        return loaded[-1]

    yield make
    for runtime in loaded:
        runtime.close()


@pytest.fixture
def runtime(load: Callable[..., TrtllmRuntime]) -> TrtllmRuntime:
    """Returns a loaded runtime."""
    return load()


@pytest.fixture
def generate() -> Callable[..., Generate]:
    """Returns a function that makes a request; `stop_after` ordinary tokens, 0 for no end."""

    def make(
        sequence_id: int,
        *,
        stop_after: int = 0,
        fault: int = 5,
        max_tokens: int = 10,
        tail: tuple[int, ...] = (),
        priority: float = 0.5,
        cache_salt: str = "",
        **sampling: Any,
    ) -> Generate:
        chosen = {"stop_token_ids": (STOP, 200_012)} | sampling
        return Generate(
            sequence_id,
            [stop_after, fault, *tail],
            Sampling(max_tokens=max_tokens, **chosen),
            priority,
            cache_salt,
        )

    return make


@pytest.fixture
def drain() -> Callable[..., dict[int, list[Output]]]:
    """Returns a function that steps a runtime until it is idle: the outputs of each sequence."""

    def run(runtime: TrtllmRuntime) -> dict[int, list[Output]]:
        found: dict[int, list[Output]] = {}
        until = time.monotonic() + TIMEOUT_SECONDS
        while runtime.busy:
            assert time.monotonic() < until, f"still busy; so far {found}"
            step = runtime.step()
            for output in step.outputs if step else []:
                found.setdefault(output.id, []).append(output)
        return found

    return run
