"""Number formats that a runtime has not: refused by name, with the reason and the nearest."""

from __future__ import annotations

import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import formats, profile
from engine_build.profiles.profile import Precision
from engine_build.weights import quantise

GPU, CPU = "gpt-oss-120b-2xh100", "development"


def refused(name: str, **precision: str) -> str:
    """Returns why a shipped profile in other formats is refused, with the advice."""
    shipped = profile.load(name)
    changed = Precision.model_validate(shipped.precision.model_dump() | precision)
    with pytest.raises(BuildError) as caught:
        formats.check(shipped.model_copy(update={"precision": changed}))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert caught.value.advice
    return str(caught.value)


@pytest.mark.parametrize("name", profile.names())
def test_every_shipped_profile_has_formats_of_its_runtime(name: str) -> None:
    formats.check(profile.load(name))


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        (CPU, {"weights": "bf16"}, "same numbers as MXFP4 in 3.76 times the bytes"),
        (CPU, {"weights": "int4"}, "embedded has no such format. Did you mean int8?"),
        (CPU, {"activations": "fp8"}, "has no FP8 products. Give one of auto, bfloat16, float32"),
        (CPU, {"activations": "bf16"}, "Did you mean bfloat16?"),
        (CPU, {"kv_cache": "fp8"}, "keeps keys and values as it computes"),
        (
            CPU,
            {"activations": "float32", "kv_cache": "bfloat16"},
            "precision.kv_cache = bfloat16 and precision.activations = float32",
        ),
        (GPU, {"weights": "fp8"}, "TensorRT-LLM reads GPT-OSS as it is published"),
        (GPU, {"weights": "int8"}, "only the embedded runtime reads INT8. Give one of mxfp4"),
        (GPU, {"weights": "bf16"}, "same numbers as MXFP4"),
        (GPU, {"activations": "fp16"}, "precision.activations = fp16: trtllm has no such format"),
    ],
)
def test_a_format_that_the_runtime_has_not_is_refused_with_the_reason(
    name: str, precision: dict[str, str], says: str
) -> None:
    assert says in refused(name, **precision)


def test_what_the_embedded_runtime_takes_is_what_a_build_can_write() -> None:
    taken = formats.TAKEN["embedded"]["weights"]
    assert set(taken) == set(quantise.FORMATS)
    assert [weights for weights in taken if formats.converts(weights)] == ["fp8", "int8"]


def test_bf16_experts_are_as_much_larger_as_the_refusal_says() -> None:
    mxfp4_bytes = 17 / 32
    assert f"{2 / mxfp4_bytes:.2f}" == "3.76"
