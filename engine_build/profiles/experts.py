"""Which of TensorRT-LLM's expert backends multiplies GPT-OSS's MXFP4 experts, and on which GPU.

Sources, read in 2026: the default, `ModelConfig.resolve_moe_backend`; what a backend computes,
`sm_support` in fused_moe/cutlass (W4A16_MXFP4: SM 90 alone, and "the weight method raises outside
SM90"; W4A8_MXFP4_FP8 and _MXFP8: SM 100 and 103, besides ones that no card here has), the leaves of
fused_moe/trtllm_gen, `TritonFusedMoE.can_implement` (pull request 19035, review). TRITON is
deprecated since September 2026 and promised for three months more (pull request 19035); its
successor on Hopper is CUTLASS. Naming a backend is to be deprecated where `moe_config.tactic`,
whose values were not read, can replace it; so a backend is named.
"""

from __future__ import annotations

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import trtllm_fields
from engine_build.profiles.gpus import Gpu
from engine_build.profiles.profile import Profile
from engine_build.profiles.trtllm_fields import FieldList

HOPPER = 90
BLACKWELL = (100, 103)

_COMPUTES: dict[str, dict[str, tuple[int, ...]]] = {
    "CUTLASS": {"bf16": (HOPPER,), "fp8": BLACKWELL, "mxfp8": BLACKWELL},
    "TRITON": {"bf16": (HOPPER,), "fp8": (HOPPER,)},
    "TRTLLM": {"bf16": BLACKWELL, "fp8": BLACKWELL, "mxfp8": BLACKWELL},
}
"""The activations that a backend takes, and the compute capabilities that it does so on."""


def backend(gpu: Gpu, known: FieldList | None = None) -> str:
    """Returns the expert backend that TensorRT-LLM chooses for GPT-OSS on this generation."""
    if gpu.sm in BLACKWELL:
        return "TRTLLM"
    return "TRITON" if "TRITON" in _backends(known) else "CUTLASS"


def computable(profile: Profile, gpu: Gpu, known: FieldList | None = None) -> bool:
    """Tells whether the version in use has a backend for the profile's activations on the GPU."""
    places = _COMPUTES.get(_chosen(profile, gpu, known), {})
    return gpu.sm in places.get(profile.precision.activations, ())


def check(profile: Profile, gpu: Gpu, known: FieldList | None = None) -> None:
    """Raises BuildError for a GPU, or a backend on it, without kernels for the experts."""
    if gpu.sm not in (HOPPER, *BLACKWELL):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: device.kind = {gpu.kind} (compute capability "
            f"{gpu.compute_capability}): TensorRT-LLM has kernels for MXFP4 experts on Hopper "
            "(9.0) and Blackwell (10.0 and 10.3) only",
            "Give a card of these generations in device.kind",
        )
    chosen = _chosen(profile, gpu, known)
    activations = profile.precision.activations
    places = _COMPUTES.get(chosen, {})
    where = f"{profile.name}: arguments.moe_config.backend = {chosen}"
    if gpu.sm not in places.get(activations, ()):
        others = [one for one, sms in places.items() if gpu.sm in sms]
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} does not compute MXFP4 experts with precision.activations = {activations} on "
            f"{gpu.kind} (compute capability {gpu.compute_capability})",
            f"Leave the backend out: {backend(gpu, known)} is taken"
            if chosen != backend(gpu, known)
            else f"Give one of {', '.join(others)} in precision.activations",
        )
    mesh = profile.mesh
    if chosen == "TRITON" and mesh.tensor_parallel != mesh.expert_parallel:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} does not cut an expert: mesh.expert_parallel = {mesh.expert_parallel} must "
            f"be mesh.tensor_parallel = {mesh.tensor_parallel}",
            "Make them equal, or give CUTLASS",
        )


def _chosen(profile: Profile, gpu: Gpu, known: FieldList | None) -> str:
    named = (profile.arguments.get("moe_config") or {}).get("backend")
    return backend(gpu, known) if named in (None, "AUTO") else str(named)


def _backends(known: FieldList | None) -> tuple[str, ...]:
    fields = trtllm_fields.read() if known is None else known
    return fields.classes["MoeConfig"].fields["backend"].values
