from __future__ import annotations

from pathlib import Path

import pytest

from engine_build.failure import BuildError
from engine_build.profiles import arguments, gpus, overlay, plan, profile
from model_assets import manifest
from serving.boundary.engine import Architecture

PAIRS = [
    (name, purpose)
    for name in profile.names()
    if profile.load(name).runtime == "trtllm"
    for purpose in overlay.names()
    if (name, purpose) != ("gpt-oss-120b-1xb200", "deterministic")  # refused: test_experts
]


@pytest.mark.parametrize(("name", "purpose"), PAIRS)
def test_every_overlay_runs_over_every_gpu_profile(name: str, purpose: str) -> None:
    laid = overlay.apply(profile.load(name), purpose)
    assert laid.name == f"{name}-{purpose}"
    gpu = gpus.find(laid.device.kind)
    read = manifest.read(laid.checkpoint).architecture
    shape = Architecture(
        **{field: getattr(read, field) for field in Architecture.__struct_fields__}
    )
    assert plan.make(laid, shape, gpu).capacity[-1].windowed >= 1
    composed = arguments.compose(laid, gpu, host_cache_bytes=0)
    assert composed["tensor_parallel_size"] == laid.device.count


def test_there_are_the_four_purposes() -> None:
    assert overlay.names() == ["deterministic", "latency", "quality", "throughput"]


def test_an_overlay_changes_what_it_names_and_nothing_else() -> None:
    base = profile.load("gpt-oss-120b-2xh100")
    laid = overlay.apply(base, "throughput")
    assert laid.arguments == base.arguments | {"stream_interval": 20}
    assert laid.model_copy(update={"name": base.name, "arguments": base.arguments}) == base


def test_quality_takes_back_what_the_profile_rounds() -> None:
    laid = overlay.apply(profile.load("gpt-oss-120b-2xh100"), "quality")
    assert (laid.precision.activations, laid.precision.kv_cache) == ("bf16", "auto")
    composed = arguments.compose(laid, gpus.find(laid.device.kind), host_cache_bytes=0)
    assert "OVERRIDE_QUANT_ALGO" not in composed["env_overrides"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("limits: {max_batchsize: 3}", "limits.max_batchsize: Extra inputs"),
        ("limits: {max_batch_size: 4}", "cuda_graphs.batch_sizes has 8, over limits"),
        ("mesh: {tensor_parallel: 4}", "mesh says what the engine is"),
        ("[1, 2]", "is not a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_overlay_is_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(BuildError) as caught:
        overlay.apply(profile.load("gpt-oss-120b-2xh100"), "wrong", tmp_path)
    assert str(tmp_path / "wrong.yaml") in caught.value.message
    assert part in caught.value.message


def test_an_unknown_overlay_is_named_with_the_nearest() -> None:
    with pytest.raises(BuildError, match="there is no overlay") as caught:
        overlay.apply(profile.load("gpt-oss-120b-2xh100"), "thruput")
    assert caught.value.advice == "Did you mean throughput?"
