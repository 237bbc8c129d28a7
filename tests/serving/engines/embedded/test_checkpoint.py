from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.engines.embedded.checkpoint import (
    INDEX_NAME,
    CheckpointError,
    ModelConfig,
    open_tensors,
    read_config,
)


@pytest.fixture
def directory(write_checkpoint: Callable[..., Path], shape: Any, tmp_path: Path) -> Path:
    """A checkpoint of two shards that a test may damage."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(write_checkpoint(shape(shards=2)), copy)
    return copy


def change(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    for name, value in fields.items():
        if value is None:
            del raw[name]
        else:
            raw[name] = value
    path.write_text(json.dumps(raw))


def test_config_holds_the_architecture(directory: Path) -> None:
    config = read_config(directory)
    assert isinstance(config, ModelConfig)
    assert (config.num_heads, config.num_kv_heads, config.group) == (4, 2, 2)
    assert config.sliding == (True, False)
    assert config.rope.factor == 32.0
    assert not config.rope.truncate


def test_both_spellings_of_rope_are_read(directory: Path) -> None:
    before = read_config(directory)
    raw = json.loads((directory / "config.json").read_text())
    rope = {**raw["rope_scaling"], "rope_theta": raw["rope_theta"]}
    change(directory, rope_scaling=None, rope_theta=None, rope_parameters=rope)
    assert read_config(directory) == before


def test_layers_alternate_from_sliding_where_config_does_not_say(directory: Path) -> None:
    change(directory, layer_types=None, num_hidden_layers=3)
    assert read_config(directory).sliding == (True, False, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type is not gpt_oss"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "many"}, "invalid literal"),
        ({"num_key_value_heads": 3}, "no multiple of 3"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "linear"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_another_model_is_refused(directory: Path, fields: dict[str, Any], message: str) -> None:
    change(directory, **fields)
    with pytest.raises(CheckpointError, match=message):
        read_config(directory)


def test_missing_and_broken_configs_are_named(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_config(directory)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_config(directory)


def test_tensors_of_all_shards_are_found(directory: Path) -> None:
    tensors = open_tensors(directory)
    norm = tensors("model.norm.weight", (64,))
    head = tensors("lm_head.weight", (300, 64))
    assert "model.layers.0.mlp.experts.down_proj_blocks" in tensors
    assert "model.layers.9.mlp.experts.down_proj_blocks" not in tensors
    assert torch.isfinite(norm).all()
    assert torch.isfinite(head).all()


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(directory: Path) -> None:
    tensors = open_tensors(directory)
    with pytest.raises(CheckpointError, match=r"no tensor model\.nothing"):
        tensors("model.nothing", (1,))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(64,\)"):
        tensors("model.norm.weight", (65,))


def test_a_damaged_shard_is_named(directory: Path) -> None:
    shard = directory / "model-1.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors"):
        open_tensors(directory)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors"):
        open_tensors(directory)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {"a": "../elsewhere"}}'])
def test_a_broken_index_is_named(directory: Path, index: str) -> None:
    (directory / INDEX_NAME).write_text(index)
    with pytest.raises(CheckpointError, match=INDEX_NAME):
        open_tensors(directory)
