from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.boundary.contract import FatalError
from serving.boundary.engine import Device, EngineError
from serving.boundary.messages import ExitCode
from serving.engines.trtllm import TrtllmRuntime, environment, host_memory
from serving.engines.trtllm.gate import ACCEPT_VARIABLE
from serving.engines.trtllm.host_memory import HostMemory
from serving.engines.trtllm.library import Library
from serving.engines.trtllm.library import load as load_installed

WriteEngine = Callable[..., Path]


def refusal(directory: Path, library: Library, **variables: str) -> str:
    with pytest.raises(EngineError) as caught:
        TrtllmRuntime.load(directory, library=library, variables=dict(variables))
    return str(caught.value)


@pytest.mark.parametrize("version", ["1.2.1", "1.3.0rc24", "1.3.0rc28"])
def test_a_version_without_the_fixes_is_refused(
    write_engine: WriteEngine, library: Library, version: str
) -> None:
    old = dataclasses.replace(library, version=version)
    told = refusal(write_engine(runtime_version=version), old)
    assert f"TensorRT-LLM {version} lacks fixes" in told
    assert "1.3.0rc29 is the oldest" in told
    assert f"{ACCEPT_VARIABLE}={version}" in told


def test_an_old_version_runs_when_its_own_name_is_accepted(
    write_engine: WriteEngine, library: Library
) -> None:
    old = dataclasses.replace(library, version="1.2.1")
    directory = write_engine(runtime_version="1.2.1")
    assert "lacks fixes" in refusal(directory, old, **{ACCEPT_VARIABLE: "1.2.0"})
    runtime = TrtllmRuntime.load(directory, library=old, variables={ACCEPT_VARIABLE: "1.2.1"})
    assert runtime.ready().runtime_version == "1.2.1"
    runtime.close()


@pytest.mark.parametrize("version", ["1.3.0rc29", "1.3.0", "1.4.0rc1", "1.4.0rc4", "1.4.0"])
def test_a_newer_version_passes(write_engine: WriteEngine, library: Library, version: str) -> None:
    new = dataclasses.replace(library, version=version)
    directory = write_engine(runtime_version=version)
    TrtllmRuntime.load(directory, library=new, variables={}).close()


def test_another_version_than_the_engines_is_refused(
    write_engine: WriteEngine, library: Library
) -> None:
    told = refusal(write_engine(runtime_version="1.3.0rc29"), library)
    assert "runtime_version is 1.3.0rc29, TensorRT-LLM here is 1.4.0rc4" in told


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ([], "device.count is 2, this process sees 0 GPUs"),
        (["NVIDIA H100 80GB HBM3"], "sees 1 GPUs: NVIDIA H100 80GB HBM3"),
        (
            ["NVIDIA H200", "NVIDIA H200"],
            "device.kind is NVIDIA H100 80GB HBM3, here is NVIDIA H200",
        ),
        (["NVIDIA H100 80GB HBM3", "NVIDIA L4"], "here is NVIDIA L4"),
    ],
)
def test_other_gpus_are_refused(
    write_engine: WriteEngine, library: Library, names: list[str], part: str
) -> None:
    machine = dataclasses.replace(library, device_names=lambda: names)
    assert part in refusal(write_engine(), machine)


def test_more_gpus_than_needed_are_fine(write_engine: WriteEngine, library: Library) -> None:
    machine = dataclasses.replace(library, device_names=lambda: ["NVIDIA H200"] * 8)
    directory = write_engine(device=Device(kind="NVIDIA H200", count=2))
    TrtllmRuntime.load(directory, library=machine, variables={}).close()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"enable_chunked_prefil": True}, "arguments.enable_chunked_prefil: Extra inputs"),
        ({"kv_cache_config": {"fraction": 0.8}}, "arguments.kv_cache_config.fraction: Extra"),
        ({"tensor_parallel_size": 1}, "tensor_parallel_size is 1, but mesh.tensor_parallel is 2"),
        ({"max_seq_len": None}, "arguments.max_seq_len is None, but limits.max_seq_len is 256"),
        ({"trust_remote_code": True}, "arguments.trust_remote_code cannot be set"),
        ({"num_postprocess_workers": 4}, "arguments.num_postprocess_workers cannot be set"),
        ({"max_beam_width": 2}, "max_beam_width must be 1"),
        ({"custom_tokenizer": "evil.module"}, "arguments.custom_tokenizer cannot be set"),
        ({"orchestrator_type": "ray"}, "orchestrator_type cannot be ray"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(
    write_engine: WriteEngine, library: Library, arguments: dict[str, Any], part: str
) -> None:
    assert part in refusal(write_engine(arguments), library)


def test_caches_are_the_engines_and_telemetry_is_off(
    write_engine: WriteEngine, library: Library
) -> None:
    directory = write_engine({"env_overrides": {"TRTLLM_ENABLE_PDL": 1}})
    variables = {"TRITON_CACHE_DIR": "/elsewhere"}
    runtime = TrtllmRuntime.load(directory, library=library, variables=variables)
    cache = directory.resolve() / "cache"
    assert variables["TLLM_AUTOTUNER_CACHE_PATH"] == str(cache / "autotuner" / "cache.json")
    assert (cache / "autotuner").is_dir()
    assert variables["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "inductor")
    assert variables["TRITON_CACHE_DIR"] == "/elsewhere"
    assert variables["TRTLLM_NO_USAGE_STATS"] == "1"
    # Two ranks: TensorRT-LLM gives each its own place for what FlashInfer and DeepGEMM compile.
    assert "FLASHINFER_WORKSPACE_BASE" not in variables
    assert "DG_JIT_CACHE_DIR" not in variables
    # MPI's workers get them as an argument.
    running: Any = runtime._llm
    assert running.args["env_overrides"] == variables | {"TRTLLM_ENABLE_PDL": 1}
    runtime.close()


def test_one_rank_keeps_what_flashinfer_and_deep_gemm_compile(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    kept = environment.variables(tmp_path, ranks=1)
    assert kept["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path.resolve() / "cache" / "flashinfer")
    assert kept["DG_JIT_CACHE_DIR"] == str(tmp_path.resolve() / "cache" / "deep_gemm")


def test_an_engine_without_a_cache_leaves_the_libraries_defaults(tmp_path: Path) -> None:
    assert environment.variables(tmp_path, ranks=1) == {"TRTLLM_NO_USAGE_STATS": "1"}


def test_the_operator_may_turn_usage_reports_on(tmp_path: Path) -> None:
    variables = {"TRTLLM_NO_USAGE_STATS": "0"}
    assert environment.prepare(tmp_path, 1, variables) == {"TRTLLM_NO_USAGE_STATS": "0"}


PLANNED = 20 * 2**30


@pytest.mark.parametrize(
    ("lockable", "free", "size", "why"),
    [
        (None, 200 * 2**30, PLANNED, ""),
        (None, None, PLANNED, ""),
        (None, 40 * 2**30, 10 * 2**30, "50% of the free memory for 2 ranks"),
        (8 * 2**30, 200 * 2**30, 8 * 2**30, "--ulimit memlock=-1"),
        (8 * 2**20, 200 * 2**30, 0, "--ulimit memlock=-1"),  # Docker's, where nothing is said
    ],
)
def test_the_host_memory_for_suspended_sequences_is_held_to_what_the_machine_has(
    write_engine: WriteEngine,
    library: Library,
    caplog: pytest.LogCaptureFixture,
    lockable: int | None,
    free: int | None,
    size: int,
    why: str,
) -> None:
    cache = {"use_kv_cache_manager_v2": True, "host_cache_size": PLANNED}
    directory = write_engine({"kv_cache_config": cache})
    memory = HostMemory(lockable_bytes=lockable, free_bytes=free)
    runtime = TrtllmRuntime.load(directory, library=library, variables={}, memory=memory)
    running: Any = runtime._llm
    assert running.args["kv_cache_config"] == cache | {"host_cache_size": size}
    assert why in caplog.text
    assert bool(caplog.text) == bool(why)
    runtime.close()


def test_the_machines_memory_is_read_and_a_containers_limit_counts(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    assert host_memory.read(meminfo, limit).free_bytes == 1000 * 1024
    limit.write_text("max\n")
    assert host_memory.read(meminfo, limit).free_bytes == 1000 * 1024
    limit.write_text("4096\n")
    assert host_memory.read(meminfo, limit).free_bytes == 4096
    assert host_memory.read(tmp_path / "no", tmp_path / "nothing").free_bytes is None


def test_the_model_is_the_engines_checkpoint(load: Callable[..., TrtllmRuntime]) -> None:
    running: Any = load()._llm
    assert running.args["model"].endswith("/engine/checkpoint")
    assert running.args["skip_tokenizer_init"] is False


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", ExitCode.OUT_OF_MEMORY),
        (
            "Executor creation failed with an error which might indicate insufficient GPU memory.",
            ExitCode.OUT_OF_MEMORY,
        ),
        ("NCCL error ncclCommunicator.cpp:90 'invalid usage'", ExitCode.COMMUNICATION),
        ("Executor worker died during initialization", ExitCode.WORKER_LOST),
        ("rank 3 (pid 12345) exited unexpectedly", ExitCode.WORKER_LOST),
        ("CUDA error: an illegal memory access was encountered", ExitCode.FATAL),
        ("something nobody has seen yet", ExitCode.FATAL),
    ],
)
def test_a_failed_start_ends_with_its_own_code(
    write_engine: WriteEngine,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    code: ExitCode,
) -> None:
    monkeypatch.setenv("TENSORRT_LLM_DOUBLE_START_ERROR", text)
    with pytest.raises(FatalError) as caught:
        TrtllmRuntime.load(write_engine(), library=library, variables={})
    assert caught.value.exit_code == code
    assert text in str(caught.value)


def test_without_tensorrt_llm_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(EngineError, match="TensorRT-LLM cannot be imported here"):
        load_installed()
