"""From an engine directory to a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from serving.boundary import engine as engines
from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.checkpoint import CheckpointError
from serving.engines.embedded.linear import fast_dtype
from serving.engines.embedded.model import Model
from serving.engines.embedded.native.model import NativeModel
from serving.engines.embedded.runtime import EmbeddedRuntime
from serving.hosting import machine

Load = Callable[..., EmbeddedRuntime]
MANIFEST = engines.Engine(
    schema_version=engines.SCHEMA_VERSION,
    name="random",
    runtime="embedded",
    runtime_version="0",
    model=engines.Model(name="random", repository="none", revision="0"),
    architecture=engines.Architecture(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=24,
        vocab_size=300,
        max_position_embeddings=131072,
    ),
    precision=engines.Precision(weights="mxfp4", activations="auto", kv_cache="auto"),
    mesh=engines.Mesh(),
    limits=engines.Limits(max_batch_size=2, max_num_tokens=64, max_seq_len=128),
    kv_cache=engines.KvCache(block_tokens=32, max_tokens=256),
    cuda_graphs=engines.CudaGraphs(),
    device=engines.Device(kind="cpu"),
)


@pytest.fixture
def load(write_checkpoint: Callable[..., Path], shape: Any, tmp_path: Path) -> Load:
    """Loads an engine directory whose manifest has the given changes."""

    def load(**changes: Any) -> EmbeddedRuntime:
        engine = tmp_path / "engine"
        engine.mkdir()
        shutil.copytree(write_checkpoint(shape()), engine / engines.CHECKPOINT_DIRECTORY)
        manifest = msgspec.structs.replace(MANIFEST, **changes)
        (engine / engines.MANIFEST_NAME).write_bytes(engines.encode(manifest))
        return EmbeddedRuntime.load(engine)

    return load


def precision(activations: str) -> engines.Precision:
    return engines.Precision(weights="mxfp4", activations=activations, kv_cache="auto")


def test_an_engine_directory_gives_its_runtime(load: Load) -> None:
    runtime = load()
    ready = runtime.ready()
    assert (ready.max_batch_size, ready.max_num_tokens, ready.max_seq_len) == (2, 64, 128)
    assert (ready.block_tokens, ready.blocks) == (32, 8)
    runtime.submit(Generate(0, [1, 2, 3], Sampling(max_tokens=2, temperature=0.0)))
    assert runtime.step() is not None


@pytest.mark.parametrize(
    ("activations", "dtype"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("auto", fast_dtype(torch.device("cpu"))),
    ],
)
def test_activations_choose_the_dtype(load: Load, activations: str, dtype: torch.dtype) -> None:
    assert load(precision=precision(activations)).dtype == dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "trtllm"}, "runtime is trtllm"),
        ({"precision": precision("fp8")}, r"precision\.activations 'fp8'"),
        ({"mesh": engines.Mesh(tensor_parallel=2)}, "mesh"),
        ({"cuda_graphs": engines.CudaGraphs(padding=False)}, r"cuda_graphs\.padding"),
    ],
)
def test_what_this_runtime_cannot_run_is_refused(
    load: Load, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(engines.EngineError, match=message):
        load(**changes)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / engines.MANIFEST_NAME).write_bytes(engines.encode(MANIFEST))
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        EmbeddedRuntime.load(tmp_path)


def test_without_a_given_size_the_cache_holds_two_longest_sequences(load: Load) -> None:
    assert load(kv_cache=engines.KvCache(block_tokens=16)).ready().blocks == 16


@pytest.mark.parametrize(("kernels", "used"), [("native", NativeModel), ("torch", Model)])
def test_the_environment_may_leave_the_c_functions_out(
    load: Load, monkeypatch: pytest.MonkeyPatch, kernels: str, used: type
) -> None:
    monkeypatch.setenv("EMBEDDED_KERNELS", kernels)
    assert type(load(precision=precision("bfloat16"))._model) is used


def test_other_kernels_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDED_KERNELS", "fast")
    with pytest.raises(engines.EngineError, match="EMBEDDED_KERNELS='fast' is neither"):
        load()


def test_a_quota_of_the_processors_bounds_the_threads(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.setattr(machine, "processors", lambda: 3)
        load()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
