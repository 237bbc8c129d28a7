from __future__ import annotations

import pytest

from engine_build.profiles import architecture_bytes as parts
from model_assets import manifest
from serving.boundary.engine import Architecture, Mesh
from tests import parameters


def shape(name: str) -> Architecture:
    read = manifest.read(name).architecture
    return Architecture(**{field: getattr(read, field) for field in Architecture.__struct_fields__})


BIG = shape("gpt-oss-120b")


@pytest.mark.parametrize("name", ["gpt-oss-120b", "gpt-oss-20b"])
def test_one_rank_weighs_what_the_checkpoint_weighs(name: str) -> None:
    whole = parts.weights(shape(name), Mesh())
    assert whole.total == parameters.tensor_bytes(manifest.read(name).architecture)


def test_the_big_model_weighs_what_is_known() -> None:
    assert parts.weights(BIG, Mesh()).total / 1e9 == pytest.approx(65.25, abs=0.01)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_experts_and_vocabulary_are_shared_out_exactly(ranks: int) -> None:
    whole = parts.weights(BIG, Mesh())
    rank = parts.weights(BIG, Mesh(tensor_parallel=ranks, expert_parallel=ranks))
    assert rank.experts * ranks == whole.experts
    assert rank.embeddings * ranks == whole.embeddings
    # Norms, routers and the output bias are on every rank.
    replicated = rank.attention * ranks - whole.attention
    layer = 3 * BIG.hidden_size + (BIG.hidden_size + 1) * BIG.num_local_experts
    assert replicated == 2 * (ranks - 1) * (BIG.num_hidden_layers * layer + BIG.hidden_size)


def test_what_tensor_ranks_expert_ranks_leave_cuts_the_experts() -> None:
    whole = parts.weights(BIG, Mesh()).experts
    cut = parts.weights(BIG, Mesh(tensor_parallel=4, expert_parallel=2)).experts
    assert cut == pytest.approx(whole / 4, rel=0.001)


def test_a_token_takes_two_kilobytes_a_layer() -> None:
    assert parts.kv_token_bytes(BIG, Mesh(), "bf16") == 2048
    assert parts.kv_token_bytes(BIG, Mesh(tensor_parallel=2), "fp8") == 512
    # Eight KV heads on sixteen ranks: each has one, repeated.
    assert parts.kv_token_bytes(BIG, Mesh(tensor_parallel=16), "bf16") == 256


@pytest.mark.parametrize(
    ("tokens", "windowed", "expected_gb"),
    [(4096, False, 0.302), (4096, True, 0.157), (100, True, 0.0094)],
)
def test_a_sequence_holds_its_blocks(tokens: int, windowed: bool, expected_gb: float) -> None:
    held = parts.sequence_bytes(
        BIG, Mesh(), "bf16", tokens=tokens, block_tokens=32, windowed=windowed
    )
    assert held / 1e9 == pytest.approx(expected_gb, rel=0.01)


def test_sliding_layers_come_first() -> None:
    assert parts.sliding_layers(BIG) == 18
    odd = Architecture(**{**_fields(BIG), "num_hidden_layers": 5})
    assert parts.sliding_layers(odd) == 3


def _fields(architecture: Architecture) -> dict[str, int]:
    return {field: getattr(architecture, field) for field in Architecture.__struct_fields__}
