"""Profiles: the two in config/engines/ load, and every wrong one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import overlay, profile

SOUND = (profile.PROFILES / "development.yaml").read_text(encoding="utf-8")


def refused(tmp_path: Path, text: str) -> BuildError:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        profile.load(str(path))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", profile.names())
def test_every_shipped_profile_loads(name: str) -> None:
    assert profile.load(name).limits.max_seq_len >= 8192


def test_the_gpu_profile_is_the_one_promised() -> None:
    loaded = profile.load("gpt-oss-120b-2xh100")
    assert loaded.runtime == "trtllm"
    assert (loaded.mesh.tensor_parallel, loaded.mesh.expert_parallel) == (2, 2)
    assert loaded.limits.max_batch_size == 64
    assert loaded.limits.max_seq_len == 98304
    assert loaded.limits.max_num_tokens == 8192
    assert loaded.kv_cache.free_memory_fraction == 0.8
    assert loaded.cuda_graphs.padding
    assert loaded.arguments["enable_chunked_prefill"] is True


@pytest.mark.parametrize(
    "name",
    [
        "gpt-oss-120b-2xh100",
        "gpt-oss-120b-1xh100",
        "gpt-oss-120b-2xh200",
        "gpt-oss-120b-1xh200",
        "gpt-oss-120b-1xb200",
        "gpt-oss-120b-8xh100",
        "gpt-oss-20b-1xh100",
    ],
)
def test_every_gpu_preset_is_there_and_says_where_its_values_come_from(name: str) -> None:
    text = (profile.PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
    assert "\n# Sources: " in text
    loaded = profile.load(name)
    assert loaded.name == name
    assert loaded.runtime == "trtllm"


def test_the_purposes_are_there_and_say_where_their_values_come_from() -> None:
    assert overlay.names() == ["deterministic", "latency", "quality", "throughput"]
    for name in overlay.names():
        assert "\n# Source" in (overlay.OVERLAYS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "key", "advice"),
    [
        ("max_batch_size:", "max_batchsize:", "limits.max_batchsize", "max_batch_size"),
        ("limits:", "limit:", "limit", "limits"),
        ("block_tokens:", "blocktokens:", "kv_cache.blocktokens", "block_tokens"),
        ("runtime:", "runtmie:", "runtmie", "runtime"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    tmp_path: Path, old: str, new: str, key: str, advice: str
) -> None:
    error = refused(tmp_path, SOUND.replace(old, new, 1))
    assert f"unknown key {key}" in error.message
    assert error.advice == f"Did you mean {advice}?"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("max_seq_len: 16384", "max_seq_len: long", "limits.max_seq_len"),
        ("max_seq_len: 16384", "max_seq_len: 0", "limits.max_seq_len"),
        ("max_seq_len: 16384", "max_seq_len: '16384'", "limits.max_seq_len"),
        ("max_seq_len: 16384", "max_seq_len: 65536", "kv_cache.max_tokens = 32768 holds no"),
        ("max_num_tokens: 1024", "max_num_tokens: 8", "max_num_tokens is 8"),
        ("count: 1", "count: 2", "needs as many devices"),
        ("max_tokens: 32768", "", "one of max_tokens and free_memory_fraction"),
        ("runtime: embedded", "runtime: replay", "runtime"),
        ("name: gpt-oss-development", "name: ../escape", "name"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert says in refused(tmp_path, SOUND.replace(old, new, 1)).message


def test_graphs_on_a_cpu_and_unsorted_graphs_are_refused(tmp_path: Path) -> None:
    graphs = SOUND + "\ncuda_graphs:\n  batch_sizes: [1, 2]\n"
    assert "device.kind = cpu" in refused(tmp_path, graphs).message
    graphs = SOUND + "\ncuda_graphs:\n  batch_sizes: [2, 1]\n"
    assert "ascend" in refused(tmp_path, graphs).message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("least_agreement: 0.98", "least_agreement: 1.5", "gate.least_agreement"),
        ("most_divergence: 0.01", "most_divergence: 0", "gate.most_divergence"),
        ("reference: {activations: float32}", "reference: {}", "give one of weights, activations"),
        ("reference: {activations: float32}", "", "gate.reference"),
        ("reference: {activations", "reference: {activation", "gate.reference.activation"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_named(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    sound = (profile.PROFILES / "development-bf16.yaml").read_text(encoding="utf-8")
    assert says in refused(tmp_path, sound.replace(old, new, 1)).message


def test_expert_ranks_must_divide_the_ranks(tmp_path: Path) -> None:
    text = (profile.PROFILES / "gpt-oss-120b-2xh100.yaml").read_text(encoding="utf-8")
    error = refused(tmp_path, text.replace("expert_parallel: 2", "expert_parallel: 3"))
    assert "mesh.expert_parallel = 3 does not divide" in error.message


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "\t", "&a [*a]"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text)


def test_an_absent_profile_is_missing_and_the_nearest_is_named() -> None:
    with pytest.raises(BuildError) as caught:
        profile.load("develpment")
    assert caught.value.exit_code is ExitCode.MISSING
    assert caught.value.advice == "Did you mean development?"
