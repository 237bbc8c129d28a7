"""Which number formats each runtime takes for a model's parts, and why it takes no other.

The names are the runtime's own. The module `arguments` knows which formats a GPU computes.
"""

from __future__ import annotations

import difflib

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles.profile import Precision, Profile

PUBLISHED = "mxfp4"
"""The experts' format as published: nothing is converted."""

TAKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "embedded": {
        "weights": (PUBLISHED, "fp8", "int8"),
        "activations": ("auto", "bfloat16", "float32"),
        "kv_cache": ("auto", "bfloat16", "float32"),
    },
    "trtllm": {
        "weights": (PUBLISHED,),
        "activations": ("bf16", "fp8", "mxfp8"),
        "kv_cache": ("auto", "bf16", "bfloat16", "float16", "fp8"),
    },
}
"""The formats by runtime and part of `precision`."""

_MEANT = {"bf16": "bfloat16", "fp32": "float32"}
"""Other names of formats that the embedded runtime has."""

_REASONS = {
    ("embedded", "weights", "bf16"): (
        "bf16 experts would hold the same numbers as MXFP4 in 3.76 times the bytes"
    ),
    ("embedded", "activations", "fp8"): "the embedded runtime has no FP8 products",
    ("embedded", "kv_cache", "fp8"): "the embedded runtime keeps keys and values as it computes",
    ("trtllm", "weights", "bf16"): (
        "bf16 experts would hold the same numbers as MXFP4 in 3.76 times the bytes"
    ),
    ("trtllm", "weights", "fp8"): (
        "TensorRT-LLM reads GPT-OSS as it is published, and has no kernels for tiles of FP8 in it"
    ),
    ("trtllm", "weights", "int8"): "only the embedded runtime reads INT8",
}


def check(profile: Profile) -> None:
    """Raises BuildError (CONFIGURATION) for the first format that the runtime does not have."""
    taken = TAKEN[profile.runtime]
    for part in Precision.model_fields:
        asked = getattr(profile.precision, part)
        if asked not in taken[part]:
            raise _refusal(profile, part, asked, taken[part])
    activations, kv_cache = profile.precision.activations, profile.precision.kv_cache
    if profile.runtime == "embedded" and kv_cache not in ("auto", activations):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.kv_cache = {kv_cache} and precision.activations = "
            f"{activations}: the embedded runtime keeps keys and values as it computes",
            "Give precision.kv_cache: auto",
        )


def converts(weights: str) -> bool:
    """Tells whether a build has to write the weights anew."""
    return weights != PUBLISHED


def _refusal(profile: Profile, part: str, asked: str, taken: tuple[str, ...]) -> BuildError:
    reason = _REASONS.get((profile.runtime, part, asked), f"{profile.runtime} has no such format")
    near = difflib.get_close_matches(asked, taken, n=1)
    nearest = _MEANT.get(asked, near[0] if near else "")
    advice = f"Give one of {', '.join(taken)}"
    if nearest in taken:
        advice = f"Did you mean {nearest}? {advice}"
    return BuildError(
        ExitCode.CONFIGURATION, f"{profile.name}: precision.{part} = {asked}: {reason}", advice
    )
