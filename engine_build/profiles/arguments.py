"""From an engine profile to TensorRT-LLM's arguments: every one that a deployer of GPT-OSS needs.

Sources of the rules, read in 2026: which expert backend runs where, `ModelConfig
.resolve_moe_backend` and fused_moe_triton.py; which number format an MXFP4 checkpoint is run in,
`get_mxfp4_quant_algo` and OVERRIDE_QUANT_ALGO of _torch/model_config.py; sinks need the attention
backend TRTLLM (issue 13166); a request's priority counts only with the waiting queue `priority`
(pull request 12362); a block's tokens are a power of two (features/kvcache of 1.4.0rc1). TRITON is
deprecated since September 2026 and promised for three months more (pull request 19035); CUTLASS is
its successor on Hopper, but not for fp8 activations. The guide for GPT-OSS of 1.4.0rc4 still has
TRITON as Hopper's default. There naming a backend is to be deprecated where `moe_config.tactic`,
whose values were not read, can replace it; so a backend is named.
"""

from __future__ import annotations

from typing import Any

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import argument_check, overlay
from engine_build.profiles.gpus import Gpu
from engine_build.profiles.profile import Profile

FIRST_FP8 = 89
"""Ada Lovelace, the first generation that computes with FP8."""
HOPPER = 90
BLACKWELL = range(100, 120)

_KV_DTYPES = {
    "auto": "auto",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp8": "fp8",
}

_QUANT_OVERRIDES = {"bf16": "W4A16_MXFP4", "fp8": "W4A8_MXFP4_FP8", "mxfp8": "W4A8_MXFP4_MXFP8"}


def compose(profile: Profile, gpu: Gpu) -> dict[str, Any]:
    """Returns the arguments of a trtllm profile: the derived ones, and the profile's own over them.

    Raises BuildError that names the key: an argument that the pinned version does not know, one
    that contradicts the rest of the profile, a combination that does not run on the GPU.
    """
    own = profile.arguments
    for name, (field, value) in _settled(profile).items():
        if own.get(name, value) != value:
            raise BuildError(
                ExitCode.CONFIGURATION,
                f"{profile.name}: arguments.{name} = {own[name]} contradicts {field} = {value}",
                f"Leave arguments.{name} out",
            )
    argument_check.check(own, where=f"{profile.name}: arguments", partial=True)
    composed = overlay.merge(_derived(profile, gpu), own)
    _check_backend(profile, gpu, composed["moe_config"]["backend"])
    argument_check.check(composed, where=f"{profile.name}: arguments", partial=True)
    return composed


def moe_backend(gpu: Gpu) -> str:
    """Returns the expert backend that TensorRT-LLM chooses for GPT-OSS on this generation."""
    if gpu.sm in BLACKWELL:
        return "TRTLLM"
    return "TRITON" if gpu.sm == HOPPER else "CUTLASS"


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


def _derived(profile: Profile, gpu: Gpu) -> dict[str, Any]:
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
        "kv_cache_config": _kv_cache(profile, gpu),
        "moe_config": {"backend": moe_backend(gpu)},
        "scheduler_config": {
            "capacity_scheduler_policy": "GUARANTEED_NO_EVICT",
            "waiting_queue_policy": "priority",
        },
        "env_overrides": _environment(profile, gpu),
    }


def _kv_cache(profile: Profile, gpu: Gpu) -> dict[str, Any]:
    held = profile.kv_cache
    dtype = _KV_DTYPES.get(profile.precision.kv_cache)
    if dtype is None:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.kv_cache = {profile.precision.kv_cache} is no format of "
            "TensorRT-LLM's KV cache",
            f"Give one of {', '.join(_KV_DTYPES)}",
        )
    if dtype == "fp8" and gpu.sm < FIRST_FP8:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.kv_cache = fp8 does not run on {gpu.kind} (compute "
            f"capability {gpu.compute_capability}; FP8 begins with "
            f"{FIRST_FP8 // 10}.{FIRST_FP8 % 10})",
            "Give auto",
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
    return {
        **size,
        "dtype": dtype,
        "enable_block_reuse": held.block_reuse,
        "tokens_per_block": held.block_tokens,
    }


def _environment(profile: Profile, gpu: Gpu) -> dict[str, str]:
    """Returns what makes the workers compute in the profile's formats. Raises BuildError."""
    activations = profile.precision.activations
    natural = "mxfp8" if gpu.sm in BLACKWELL else "bf16"
    allowed = {"bf16", "fp8", "mxfp8"} if gpu.sm in BLACKWELL else {"bf16"}
    if gpu.sm == HOPPER:
        allowed.add("fp8")
    if activations not in allowed:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.activations = {activations} does not run on {gpu.kind} "
            f"(compute capability {gpu.compute_capability})",
            f"Give one of {', '.join(sorted(allowed))}",
        )
    if activations == natural:
        return {}
    return {"OVERRIDE_QUANT_ALGO": _QUANT_OVERRIDES[activations]}


def _check_backend(profile: Profile, gpu: Gpu, backend: str) -> None:
    """Raises BuildError for an expert backend that does not run here."""
    where = f"{profile.name}: arguments.moe_config.backend = {backend}"
    fp8 = profile.precision.activations == "fp8"
    cut = profile.mesh.tensor_parallel != profile.mesh.expert_parallel
    if backend == "TRTLLM" and gpu.sm not in BLACKWELL:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} has kernels for Blackwell only, not for {gpu.kind}",
            f"Leave it out: {moe_backend(gpu)} is taken",
        )
    if backend == "TRITON" and gpu.sm != HOPPER and profile.mesh.expert_parallel > 1:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} has expert parallelism on Hopper only, not on {gpu.kind}",
            f"Leave it out: {moe_backend(gpu)} is taken",
        )
    if backend == "TRITON" and cut:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} does not cut an expert: mesh.expert_parallel = "
            f"{profile.mesh.expert_parallel} must be mesh.tensor_parallel = "
            f"{profile.mesh.tensor_parallel}",
            "Make them equal, or give CUTLASS",
        )
    if fp8 and backend != "TRITON":
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} does not compute MXFP4 weights with precision.activations = fp8",
            "Give TRITON, or other activations",
        )
