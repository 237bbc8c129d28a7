"""From an engine profile to TensorRT-LLM's arguments: every one that a deployer of GPT-OSS needs.

Sources of the rules, read in 2026: which number format an MXFP4 checkpoint is run in,
`get_mxfp4_quant_algo` and OVERRIDE_QUANT_ALGO of _torch/model_config.py; sinks need the attention
backend TRTLLM (issue 13166); a request's priority counts only with the waiting queue `priority`
(pull request 12362); a block's tokens are a power of two (features/kvcache of 1.4.0rc1). KV cache
manager V2 is GPT-OSS's default (pull request 16942); its scheduler knows MAX_UTILIZATION alone and
sets it over everything else (scheduler_v2.py), and its host tier is where suspended sequences go
(kv_cache_manager_v2.py). The expert backends: `experts`.
"""

from __future__ import annotations

from typing import Any

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import argument_check, experts, overlay
from engine_build.profiles.gpus import Gpu
from engine_build.profiles.profile import Profile
from engine_build.profiles.trtllm_fields import FieldList

_KV_DTYPES = {
    "auto": "auto",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp8": "fp8",
}

_POLICIES = {True: "MAX_UTILIZATION", False: "GUARANTEED_NO_EVICT"}
"""The scheduler's policy, by whether KV cache manager V2 runs."""

_QUANT_OVERRIDES = {"bf16": "W4A16_MXFP4", "fp8": "W4A8_MXFP4_FP8", "mxfp8": "W4A8_MXFP4_MXFP8"}


def compose(
    profile: Profile, gpu: Gpu, *, host_cache_bytes: int, known: FieldList | None = None
) -> dict[str, Any]:
    """Returns the arguments of a trtllm profile: the derived ones, and the profile's own over them.

    `host_cache_bytes` of host memory a rank are for suspended sequences; `known` are the arguments
    of the version in use, those of the list in the repository if not given. Raises BuildError that
    names the key: an argument that the version does not know, one that contradicts the rest of the
    profile, a combination that does not run on the GPU.
    """
    own = profile.arguments
    where = f"{profile.name}: arguments"
    for name, (field, value) in _settled(profile).items():
        if own.get(name, value) != value:
            raise BuildError(
                ExitCode.CONFIGURATION,
                f"{where}.{name} = {own[name]} contradicts {field} = {value}",
                f"Leave arguments.{name} out",
            )
    argument_check.check(own, where=where, fields=known, partial=True)
    experts.check(profile, gpu, known)
    composed = overlay.merge(_derived(profile, gpu, host_cache_bytes, known), own)
    _check_scheduler(composed, where)
    argument_check.check(composed, where=where, fields=known, partial=True)
    return composed


def manages_v2(profile: Profile) -> bool:
    """Tells whether KV cache manager V2 is to run: unless the profile says otherwise."""
    own = profile.arguments.get("kv_cache_config") or {}
    return own.get("use_kv_cache_manager_v2") is not False


def _settled(profile: Profile) -> dict[str, tuple[str, Any]]:
    """Returns what the profile says elsewhere, in TensorRT-LLM's names."""
    mesh, limits = profile.mesh, profile.limits
    return {
        "tensor_parallel_size": ("mesh.tensor_parallel", mesh.tensor_parallel),
        "moe_expert_parallel_size": ("mesh.expert_parallel", mesh.expert_parallel),
        "moe_tensor_parallel_size": (
            "mesh.tensor_parallel / mesh.expert_parallel",
            mesh.tensor_parallel // mesh.expert_parallel,
        ),
        "pipeline_parallel_size": ("the only one that GPT-OSS runs with", 1),
        "max_batch_size": ("limits.max_batch_size", limits.max_batch_size),
        "max_num_tokens": ("limits.max_num_tokens", limits.max_num_tokens),
        "max_seq_len": ("limits.max_seq_len", limits.max_seq_len),
    }


def _derived(
    profile: Profile, gpu: Gpu, host_cache_bytes: int, known: FieldList | None
) -> dict[str, Any]:
    sizes = profile.cuda_graphs.batch_sizes
    graphs = {"batch_sizes": sizes, "enable_padding": profile.cuda_graphs.padding}
    return {
        **{name: value for name, (_, value) in _settled(profile).items()},
        "attn_backend": "TRTLLM",
        "enable_chunked_prefill": True,
        "enable_iter_perf_stats": True,
        "guided_decoding_backend": "xgrammar",
        "stream_interval": 1,
        # null turns graphs off; leaving it out would capture TensorRT-LLM's own choice.
        "cuda_graph_config": graphs if sizes else None,
        "kv_cache_config": _kv_cache(profile, host_cache_bytes),
        "moe_config": {"backend": experts.backend(gpu, known)},
        "scheduler_config": {
            "capacity_scheduler_policy": _POLICIES[manages_v2(profile)],
            "waiting_queue_policy": "priority",
        },
        "env_overrides": _environment(profile, gpu),
    }


def _kv_cache(profile: Profile, host_cache_bytes: int) -> dict[str, Any]:
    held = profile.kv_cache
    dtype = _KV_DTYPES.get(profile.precision.kv_cache)
    if dtype is None:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.kv_cache = {profile.precision.kv_cache} is no format of "
            "TensorRT-LLM's KV cache",
            f"Give one of {', '.join(_KV_DTYPES)}",
        )
    if held.block_tokens < 2 or held.block_tokens.bit_count() != 1:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: kv_cache.block_tokens = {held.block_tokens}: TensorRT-LLM takes "
            "powers of two greater than 1",
            "Give 32, its default",
        )
    size: dict[str, Any] = {"max_tokens": held.max_tokens}
    if held.max_tokens is None:
        size = {"free_gpu_memory_fraction": held.free_memory_fraction}
    if manages_v2(profile):
        size |= {"use_kv_cache_manager_v2": True, "host_cache_size": host_cache_bytes}
    return {
        **size,
        "dtype": dtype,
        "enable_block_reuse": held.block_reuse,
        "tokens_per_block": held.block_tokens,
    }


def _environment(profile: Profile, gpu: Gpu) -> dict[str, str]:
    """Returns what the workers read from their environment.

    They launch dependent kernels early, as in NVIDIA's own runs (newer versions do so unasked);
    they add up in float32 what the ranks computed, worth about five points of GPQA on four B200
    (pull request 16753, which made it the default); they compute in the profile's activations.
    """
    chosen = {"TRTLLM_ENABLE_PDL": "1"}
    if profile.mesh.tensor_parallel > 1:
        chosen["ALL_REDUCE_FUSION_KERNEL_ACC_FP32"] = "1"
    activations = profile.precision.activations
    if activations != ("mxfp8" if gpu.sm in experts.BLACKWELL else "bf16"):
        chosen["OVERRIDE_QUANT_ALGO"] = _QUANT_OVERRIDES[activations]
    return chosen


def _check_scheduler(composed: dict[str, Any], where: str) -> None:
    """Raises BuildError for a policy that the cache manager would override."""
    v2 = composed["kv_cache_config"].get("use_kv_cache_manager_v2", False)
    policy = composed["scheduler_config"]["capacity_scheduler_policy"]
    if v2 and policy != _POLICIES[True]:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where}.scheduler_config.capacity_scheduler_policy = {policy}: KV cache manager V2 "
            f"runs {_POLICIES[True]} whatever is asked for",
            "Leave it out, or give kv_cache_config: {use_kv_cache_manager_v2: false} as well",
        )
