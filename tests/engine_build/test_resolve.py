"""What is built of a profile: its purpose laid over it, its plan checked, its arguments written."""

from __future__ import annotations

import dataclasses

import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import overlay, profile
from engine_build.profiles.profile import Profile
from engine_build.resolve import (
    building_bytes,
    complete,
    cpu_lines,
    make_plan,
    plan_cpu,
    resolve,
)

PAIRS = [
    (name, purpose)
    for name in profile.names()
    if profile.load(name).runtime == "trtllm"
    for purpose in (None, *overlay.names())
    if (name, purpose) != ("gpt-oss-120b-1xb200", "deterministic")  # refused: test_experts
]


@pytest.mark.parametrize(("name", "purpose"), PAIRS)
def test_every_gpu_profile_fits_and_has_its_arguments(name: str, purpose: str | None) -> None:
    resolved = resolve(name, purpose).profile
    assert resolved.arguments["tensor_parallel_size"] == resolved.mesh.tensor_parallel
    assert resolved.arguments["max_seq_len"] == resolved.limits.max_seq_len
    planned = make_plan(resolved)
    assert planned.unused >= 0
    assert resolved.arguments["kv_cache_config"]["host_cache_size"] == planned.host_cache > 0


def test_a_profile_for_the_embedded_runtime_stays_as_it_is() -> None:
    assert resolve("development", None).profile == profile.load("development")


def test_a_build_for_a_cpu_has_room_for_every_engine_that_its_gate_runs() -> None:
    resolved = resolve("gpt-oss-20b-cpu", None)
    assert resolved.gate is not None
    least_bytes = plan_cpu(resolved.profile).memory
    assert building_bytes(resolved) == plan_cpu(resolved.gate.reference).memory > least_bytes
    assert any("building" in line for line in cpu_lines(resolved))
    ungated = dataclasses.replace(resolved, gate=None)
    assert building_bytes(ungated) == least_bytes


def test_memory_is_planned_for_tensorrt_llm_only() -> None:
    embedded = profile.load("gpt-oss-20b-1xh100").model_copy(update={"runtime": "embedded"})
    with pytest.raises(BuildError, match="runtime is embedded") as caught:
        make_plan(embedded)
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_a_mesh_that_does_not_cut_the_model_is_refused_before_anything_is_fetched() -> None:
    raw = profile.load("development-2ranks").model_dump()
    raw["mesh"] = {"tensor_parallel": 4, "expert_parallel": 1}
    raw["device"]["count"] = 4
    with pytest.raises(BuildError, match="leaves a rank none of 2 blocks") as caught:
        complete(Profile.model_validate(raw))
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_rank_files_have_no_gate_of_a_running_engine() -> None:
    raw = profile.load("development-2ranks").model_dump()
    raw["gate"] = profile.load("development-int8").model_dump()["gate"]
    with pytest.raises(BuildError, match=r"with a gate") as caught:
        complete(Profile.model_validate(raw))
    assert "Leave gate out" in caught.value.advice


def test_an_unknown_purpose_is_named_with_the_nearest() -> None:
    with pytest.raises(BuildError) as caught:
        resolve("gpt-oss-120b-2xh100", "latncy")
    assert caught.value.advice == "Did you mean latency?"
