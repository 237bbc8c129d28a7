from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import gpus, plan, profile
from engine_build.profiles.profile import Profile
from model_assets import manifest
from serving.boundary.engine import Architecture

PROFILES = [name for name in profile.names() if profile.load(name).runtime == "trtllm"]


def shape(name: str) -> Architecture:
    read = manifest.read(name).architecture
    return Architecture(**{field: getattr(read, field) for field in Architecture.__struct_fields__})


def changed(name: str = "gpt-oss-120b-2xh100", **sections: dict[str, Any]) -> Profile:
    raw = profile.load(name).model_dump()
    for section, values in sections.items():
        raw[section] |= values
    return Profile.model_validate(raw)


def made(wanted: Profile) -> plan.Plan:
    return plan.make(wanted, shape(wanted.checkpoint), gpus.find(wanted.device.kind))


def refused(wanted: Profile) -> BuildError:
    with pytest.raises(BuildError) as caught:
        made(wanted)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert wanted.name in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", PROFILES)
def test_every_shipped_profile_fits_its_gpus(name: str) -> None:
    found = made(profile.load(name))
    held = (
        found.attention
        + found.experts
        + found.embeddings
        + found.padding
        + found.context
        + found.activations
        + found.workspace
        + found.cuda_graphs
        + found.kv_cache
        + found.unused
    )
    assert held == found.memory
    assert found.unused >= 0
    assert found.capacity[-1].tokens == profile.load(name).limits.max_seq_len
    assert found.capacity[-1].windowed >= 1


def test_the_default_profile_has_room_for_its_promise() -> None:
    found = made(profile.load("gpt-oss-120b-2xh100"))
    at = {capacity.tokens: capacity for capacity in found.capacity}
    # 64 at once is max_batch_size.
    assert at[16384].windowed > 64
    assert at[4096].windowed > 1.9 * at[4096].whole
    assert found.experts / 1e9 == pytest.approx(30.5, abs=0.01)


def test_the_fraction_is_of_what_weights_and_a_step_leave() -> None:
    found = made(profile.load("gpt-oss-120b-2xh100"))
    free = found.kv_cache + found.cuda_graphs + found.unused
    assert found.kv_cache == pytest.approx(0.8 * free, abs=1)


def test_host_memory_is_planned_for_what_can_be_suspended() -> None:
    """What a full batch of the longest sequences needs beyond the GPU's cache, and no more than
    that cache; at least one sequence."""
    found = made(profile.load("gpt-oss-120b-2xh100"))
    held = found.capacity[-1].windowed
    least, most = found.kv_cache / (held + 1), found.kv_cache / held  # what one sequence needs
    assert 64 * least < found.host_cache + found.kv_cache <= 64 * most
    assert "41.96 GB for all ranks" in "\n".join(plan.lines(found))
    single = made(changed(limits={"max_batch_size": 1}, cuda_graphs={"batch_sizes": [1]}))
    assert least < single.host_cache <= most
    many = made(changed(limits={"max_batch_size": 512}))
    assert many.host_cache == many.kv_cache
    own = {"kv_cache_config": {"host_cache_size": 2**30}}
    assert made(changed(arguments=own)).host_cache == 2**30
    older = {"kv_cache_config": {"use_kv_cache_manager_v2": False}}
    assert made(changed(arguments=older)).host_cache == 0


def test_weights_that_leave_nothing_are_refused_with_the_numbers() -> None:
    error = refused(changed("gpt-oss-120b-1xh100", device={"kind": "NVIDIA L40S"}))
    assert "65.25 GB" in error.message
    assert "48.31 GB (NVIDIA L40S)" in error.message
    assert isinstance(error, plan.DoesNotFitError)


def test_a_greedy_fraction_is_refused_with_what_it_leaves() -> None:
    error = refused(changed("gpt-oss-120b-1xh100", kv_cache={"free_memory_fraction": 0.98}))
    assert "7 CUDA graphs may need 1.47 GB" in error.message


def test_a_length_that_the_cache_does_not_hold_is_refused() -> None:
    small = {"free_memory_fraction": 0.15}
    error = refused(changed("gpt-oss-120b-1xh100", kv_cache=small))
    assert "holds no sequence of limits.max_seq_len = 65536" in error.message


def test_a_number_of_tokens_over_the_memory_is_refused_with_what_is_free() -> None:
    many = {"free_memory_fraction": None, "max_tokens": 10_000_000}
    assert "kv_cache.max_tokens = 10000000 needs" in refused(changed(kv_cache=many)).message


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"limits": {"max_seq_len": 131_073}}, "over the model's 131072 positions"),
        (
            {"mesh": {"tensor_parallel": 3, "expert_parallel": 3}, "device": {"count": 3}},
            "mesh.expert_parallel = 3 does not divide 128 experts",
        ),
        (
            {"mesh": {"tensor_parallel": 3, "expert_parallel": 1}, "device": {"count": 3}},
            "does not divide 64 attention heads",
        ),
        ({"precision": {"kv_cache": "int3"}}, "precision.kv_cache is int3"),
    ],
)
def test_what_cannot_be_cut_or_cached_is_named(
    sections: dict[str, dict[str, Any]], part: str
) -> None:
    assert part in refused(changed("gpt-oss-120b-2xh100", **sections)).message


def test_a_plan_can_be_read_by_a_person_and_by_a_program() -> None:
    found = made(profile.load("gpt-oss-20b-1xh100"))
    told = "\n".join(plan.lines(found))
    assert "gpt-oss-20b-1xh100: 1 x NVIDIA H100 80GB HBM3, 85.52 GB each" in told
    assert "kv_cache" in told
    assert "sequences of  65536 tokens" in told
    assert msgspec.json.decode(msgspec.json.encode(found), type=plan.Plan) == found


def test_an_unknown_gpu_is_named_with_the_nearest() -> None:
    with pytest.raises(BuildError, match="has no GPU NVIDIA H100 80GB") as caught:
        gpus.find("NVIDIA H100 80GB")
    assert caught.value.advice == "Did you mean NVIDIA H100 80GB HBM3?"


def test_a_wrong_key_in_the_list_of_gpus_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text("gpus: [{kind: X, memory_gb: 3, compute_capability: '9.0'}]")
    with pytest.raises(BuildError, match=r"gpus\.0\.memory"):
        gpus.read(path)
