"""What `plan` advises when a profile does not fit: every change that it names does fit, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from engine_build import resolve
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import gpus, plan, profile, remedies
from engine_build.profiles.profile import Profile
from model_assets import manifest
from serving.boundary.engine import Architecture


def changed(name: str, **sections: dict[str, Any]) -> Profile:
    raw = profile.load(name).model_dump()
    for section, values in sections.items():
        raw[section] |= values
    return Profile.model_validate(raw)


def shape(wanted: Profile) -> Architecture:
    read = manifest.read(wanted.checkpoint).architecture
    return Architecture(**{field: getattr(read, field) for field in Architecture.__struct_fields__})


def found(wanted: Profile) -> dict[str, remedies.Remedy]:
    """Returns the remedies of a profile by their words; it does not fit, and each of them does."""
    gpu = gpus.find(wanted.device.kind)
    with pytest.raises(plan.DoesNotFitError):
        plan.make(wanted, shape(wanted), gpu)
    held = remedies.remedies(wanted, shape(wanted), gpu, gpus.read().values())
    for one in held:
        plan.make(one.profile, shape(wanted), one.gpu)
        assert one.profile.device.kind == one.gpu.kind
    return {one.change: one for one in held}


CASES = [
    (
        "gpt-oss-120b-1xh100",
        {"limits": {"max_num_tokens": 65536}},
        ["2 x NVIDIA H100 80GB HBM3 (device.count", "device.kind: NVIDIA H100 NVL"],
    ),
    (
        "gpt-oss-120b-1xh100",
        {"kv_cache": {"free_memory_fraction": 0.98}},
        ["kv_cache.free_memory_fraction: 0.85", "cuda_graphs.batch_sizes: [1]"],
    ),
    (
        "gpt-oss-120b-1xh100",
        {"kv_cache": {"free_memory_fraction": 0.15}},
        ["kv_cache.free_memory_fraction: 0.", "limits.max_seq_len: ", "precision.kv_cache: fp8"],
    ),
    (
        "gpt-oss-120b-2xh100",
        {"kv_cache": {"free_memory_fraction": None, "max_tokens": 10_000_000}},
        ["kv_cache.max_tokens: ", "8 x NVIDIA H100"],
    ),
    (
        "gpt-oss-20b-1xh100",
        {"limits": {"max_num_tokens": 1048576}},
        ["limits.max_num_tokens: "],
    ),
]


@pytest.mark.parametrize(("name", "sections", "words"), CASES)
def test_each_change_makes_it_fit(
    name: str, sections: dict[str, dict[str, Any]], words: list[str]
) -> None:
    changes = found(changed(name, **sections))
    for word in words:
        assert any(word in change for change in changes), (word, list(changes))


def test_the_largest_cache_in_tokens_is_told() -> None:
    many = {"free_memory_fraction": None, "max_tokens": 10_000_000}
    wanted = changed("gpt-oss-120b-2xh100", kv_cache=many)
    (best,) = [one for change, one in found(wanted).items() if "max_tokens" in change]
    tokens = best.profile.kv_cache.max_tokens
    assert tokens
    more = changed("gpt-oss-120b-2xh100", kv_cache=many | {"max_tokens": tokens + 64})
    with pytest.raises(plan.DoesNotFitError):
        plan.make(more, shape(more), gpus.find(more.device.kind))


def test_the_longest_sequence_that_fits_is_told() -> None:
    small = {"free_memory_fraction": 0.15}
    wanted = changed("gpt-oss-120b-1xh100", kv_cache=small)
    (best,) = [one for change, one in found(wanted).items() if "max_seq_len" in change]
    longer = {"max_seq_len": best.profile.limits.max_seq_len + remedies.LENGTH_STEP_TOKENS}
    more = changed("gpt-oss-120b-1xh100", kv_cache=small, limits=longer)
    with pytest.raises(plan.DoesNotFitError):
        plan.make(more, shape(more), gpus.find(more.device.kind))


def test_no_advice_where_nothing_helps() -> None:
    assert remedies.advice([]) == "No single change that is known here makes it fit"


def test_the_command_names_the_changes(tmp_path: Path) -> None:
    wanted = changed("gpt-oss-120b-1xh100", kv_cache={"free_memory_fraction": 0.98})
    path = tmp_path / "greedy.yaml"
    path.write_text(yaml.safe_dump(wanted.model_dump()), encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        resolve.resolve(str(path), None)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert "7 CUDA graphs may need 1.47 GB" in caught.value.message
    assert caught.value.advice.startswith(
        "It fits with any one of: kv_cache.free_memory_fraction: 0.85; cuda_graphs.batch_sizes: [1]"
    )
