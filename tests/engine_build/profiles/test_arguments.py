from __future__ import annotations

from typing import Any

import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import argument_check, arguments, gpus, profile
from engine_build.profiles.profile import Profile

HOST_BYTES = 2**30

PROFILES = [name for name in profile.names() if profile.load(name).runtime == "trtllm"]


def changed(name: str = "gpt-oss-120b-2xh200", **sections: dict[str, Any]) -> Profile:
    raw = profile.load(name).model_dump()
    for section, values in sections.items():
        raw[section] |= values
    return Profile.model_validate(raw)


def composed(wanted: Profile) -> dict[str, Any]:
    gpu = gpus.find(wanted.device.kind)
    return arguments.compose(wanted, gpu, host_cache_bytes=HOST_BYTES)


def refused(wanted: Profile) -> BuildError:
    with pytest.raises(BuildError) as caught:
        composed(wanted)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    return caught.value


@pytest.mark.parametrize("name", PROFILES)
def test_every_shipped_profile_gives_arguments_of_the_pinned_version(name: str) -> None:
    found = composed(profile.load(name))
    argument_check.check(found | {"model": "checkpoint"}, where="arguments")


def test_the_default_profile_becomes_what_was_promised() -> None:
    found = composed(profile.load("gpt-oss-120b-2xh100"))
    assert found["tensor_parallel_size"] == 2
    assert found["moe_expert_parallel_size"] == 2
    assert found["moe_tensor_parallel_size"] == 1
    assert (found["max_batch_size"], found["max_num_tokens"]) == (64, 8192)
    assert found["max_seq_len"] == 98304
    assert found["enable_chunked_prefill"] is True
    assert found["cuda_graph_config"]["enable_padding"] is True
    assert found["cuda_graph_config"]["batch_sizes"][-1] == 64
    assert found["kv_cache_config"]["free_gpu_memory_fraction"] == 0.8
    assert found["kv_cache_config"]["enable_block_reuse"] is True
    assert found["guided_decoding_backend"] == "xgrammar"
    assert found["scheduler_config"]["waiting_queue_policy"] == "priority"
    assert found["attn_backend"] == "TRTLLM"


@pytest.mark.parametrize(
    ("name", "backend", "override"),
    [
        ("gpt-oss-120b-1xh200", "TRITON", None),
        ("gpt-oss-120b-1xb200", "TRTLLM", None),
        ("gpt-oss-20b-1xh100", "TRITON", None),
    ],
)
def test_the_expert_backend_is_the_generations(
    name: str, backend: str, override: str | None
) -> None:
    found = composed(profile.load(name))
    assert found["moe_config"] == {"backend": backend}
    assert found["env_overrides"].get("OVERRIDE_QUANT_ALGO") == override


def test_other_activations_are_asked_of_the_workers() -> None:
    hopper = composed(changed(precision={"activations": "fp8"}))
    assert hopper["env_overrides"]["OVERRIDE_QUANT_ALGO"] == "W4A8_MXFP4_FP8"
    for activations, override in (("bf16", "W4A16_MXFP4"), ("fp8", "W4A8_MXFP4_FP8")):
        blackwell = composed(changed("gpt-oss-120b-1xb200", precision={"activations": activations}))
        assert blackwell["env_overrides"]["OVERRIDE_QUANT_ALGO"] == override


def test_the_workers_add_up_in_float32_where_there_are_several() -> None:
    assert composed(changed())["env_overrides"] == {
        "TRTLLM_ENABLE_PDL": "1",
        "ALL_REDUCE_FUSION_KERNEL_ACC_FP32": "1",
    }
    one = composed(profile.load("gpt-oss-120b-1xh200"))
    assert one["env_overrides"] == {"TRTLLM_ENABLE_PDL": "1"}


def test_the_cache_manager_is_chosen_with_its_policy_and_its_host_memory() -> None:
    found = composed(changed())
    assert found["scheduler_config"]["capacity_scheduler_policy"] == "MAX_UTILIZATION"
    assert found["kv_cache_config"]["use_kv_cache_manager_v2"] is True
    assert found["kv_cache_config"]["host_cache_size"] == HOST_BYTES
    older = {"kv_cache_config": {"use_kv_cache_manager_v2": False}}
    found = composed(changed(arguments=older))
    assert found["scheduler_config"]["capacity_scheduler_policy"] == "GUARANTEED_NO_EVICT"
    assert "host_cache_size" not in found["kv_cache_config"]


def test_a_policy_that_the_cache_manager_overrides_is_refused() -> None:
    policy = {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"}
    error = refused(changed(arguments={"scheduler_config": policy}))
    assert "KV cache manager V2 runs MAX_UTILIZATION whatever is asked for" in error.message
    assert "use_kv_cache_manager_v2: false" in error.advice


def test_a_profiles_own_arguments_stand_over_the_derived_ones() -> None:
    wanted = changed(
        arguments={
            "stream_interval": 20,
            "moe_config": {"max_num_tokens": 4096},
            "env_overrides": {"TRTLLM_ENABLE_PDL": "0"},
        }
    )
    found = composed(wanted)
    assert found["stream_interval"] == 20
    assert found["moe_config"] == {"backend": "TRITON", "max_num_tokens": 4096}
    assert found["env_overrides"]["TRTLLM_ENABLE_PDL"] == "0"


def test_no_graphs_are_no_graphs() -> None:
    assert composed(changed(cuda_graphs={"batch_sizes": []}))["cuda_graph_config"] is None


@pytest.mark.parametrize(
    ("own", "part", "advice"),
    [
        (
            {"enable_chunked_prefil": True},
            "arguments.enable_chunked_prefil: TensorRT-LLM 1.4.0rc4 has no such argument",
            "Did you mean enable_chunked_prefill?",
        ),
        (
            {"kv_cache_config": {"free_gpu_memory_fracton": 0.5}},
            "arguments.kv_cache_config.free_gpu_memory_fracton",
            "Did you mean free_gpu_memory_fraction?",
        ),
        (
            {"kv_cache_free_gpu_memory_fraction": 0.8},
            "arguments.kv_cache_free_gpu_memory_fraction",
            "It is now kv_cache_config.free_gpu_memory_fraction",
        ),
        (
            {"enable_trtllm_sampler": True},
            "arguments.enable_trtllm_sampler",
            "It is now nothing: the sampler is no longer chosen",
        ),
        (
            {"moe_config": {"backend": "TRITN"}},
            "arguments.moe_config.backend = TRITN",
            "Did you mean TRITON?",
        ),
        ({"stream_interval": 0}, "arguments.stream_interval = 0: must be from 1", ""),
        ({"stream_interval": "20"}, "arguments.stream_interval = '20'", ""),
        ({"enable_attention_dp": 1}, "arguments.enable_attention_dp = 1", ""),
        (
            {"tensor_parallel_size": 4},
            "arguments.tensor_parallel_size = 4 contradicts mesh.tensor_parallel = 2",
            "Leave arguments.tensor_parallel_size out",
        ),
        ({"pipeline_parallel_size": 2}, "arguments.pipeline_parallel_size = 2 contradicts", None),
        ({"max_seq_len": 5}, "arguments.max_seq_len = 5 contradicts limits.max_seq_len", None),
    ],
)
def test_an_argument_that_cannot_be_meant_is_named(
    own: dict[str, Any], part: str, advice: str | None
) -> None:
    error = refused(changed(arguments=own))
    assert part in error.message
    if advice is not None:
        assert error.advice == advice


@pytest.mark.parametrize(
    ("name", "sections", "part"),
    [
        ("gpt-oss-120b-2xh200", {"precision": {"kv_cache": "int8"}}, "precision.kv_cache = int8"),
        ("gpt-oss-120b-2xh200", {"kv_cache": {"block_tokens": 48}}, "powers of two"),
        ("gpt-oss-120b-2xh200", {"kv_cache": {"block_tokens": 1}}, "powers of two"),
    ],
)
def test_what_does_not_run_on_the_gpu_is_refused(
    name: str, sections: dict[str, dict[str, Any]], part: str
) -> None:
    assert part in refused(changed(name, **sections)).message


def test_a_missing_required_argument_is_named() -> None:
    with pytest.raises(BuildError, match="arguments: model is missing"):
        argument_check.check({}, where="arguments")
