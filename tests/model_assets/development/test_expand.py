"""Expansion: complete, deterministic, whole or not at all, and what transformers expects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from model_assets.development.compact import Compact, CompactError
from model_assets.development.evaluation import network_of
from model_assets.development.expand import expand
from model_assets.development.network import Network
from serving.boundary.engine import sha256


def test_the_same_bytes_come_out_again(compact_path: Path, expanded: Path, tmp_path: Path) -> None:
    expand(compact_path, tmp_path / "again")
    names = sorted(path.name for path in expanded.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    for name in names:
        assert sha256(tmp_path / "again" / name) == sha256(expanded / name)


def test_names_types_and_shapes_are_hugging_faces(expanded: Path, checkpoint: Compact) -> None:
    shape = checkpoint.shape
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    query = shape.num_attention_heads * shape.head_dim
    key = shape.num_key_value_heads * shape.head_dim
    layer = {
        "input_layernorm.weight": ("BF16", [hidden]),
        "post_attention_layernorm.weight": ("BF16", [hidden]),
        "self_attn.q_proj.weight": ("BF16", [query, hidden]),
        "self_attn.q_proj.bias": ("BF16", [query]),
        "self_attn.k_proj.weight": ("BF16", [key, hidden]),
        "self_attn.k_proj.bias": ("BF16", [key]),
        "self_attn.v_proj.weight": ("BF16", [key, hidden]),
        "self_attn.v_proj.bias": ("BF16", [key]),
        "self_attn.o_proj.weight": ("BF16", [hidden, query]),
        "self_attn.o_proj.bias": ("BF16", [hidden]),
        "self_attn.sinks": ("BF16", [shape.num_attention_heads]),
        "mlp.router.weight": ("BF16", [experts, hidden]),
        "mlp.router.bias": ("BF16", [experts]),
        "mlp.experts.gate_up_proj_blocks": ("U8", [experts, 2 * inner, hidden // 32, 16]),
        "mlp.experts.gate_up_proj_scales": ("U8", [experts, 2 * inner, hidden // 32]),
        "mlp.experts.gate_up_proj_bias": ("BF16", [experts, 2 * inner]),
        "mlp.experts.down_proj_blocks": ("U8", [experts, hidden, inner // 32, 16]),
        "mlp.experts.down_proj_scales": ("U8", [experts, hidden, inner // 32]),
        "mlp.experts.down_proj_bias": ("BF16", [experts, hidden]),
    }
    expected = {
        f"model.layers.{index}.{name}": kind
        for index in range(shape.num_hidden_layers)
        for name, kind in layer.items()
    }
    expected["model.embed_tokens.weight"] = ("BF16", [201_088, hidden])
    expected["lm_head.weight"] = ("BF16", [201_088, hidden])
    expected["model.norm.weight"] = ("BF16", [hidden])
    with safetensors.safe_open(expanded / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    assert found == expected


def test_ids_without_a_row_share_one(expanded: Path, checkpoint: Compact) -> None:
    tensors = load_file(expanded / "model.safetensors")
    unused = np.setdiff1d(np.arange(201_088), checkpoint.ids)
    assert len(unused) > 190_000
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        shared = tensors[name][torch.from_numpy(unused)]
        assert torch.equal(shared, shared[:1].expand_as(shared))
        assert not torch.equal(tensors[name][int(checkpoint.ids[0])], shared[0])


def test_the_configuration_says_gpt_oss_with_mxfp4(expanded: Path) -> None:
    config = json.loads((expanded / "config.json").read_text())
    assert config["architectures"] == ["GptOssForCausalLM"]
    assert config["model_type"] == "gpt_oss"
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    assert config["vocab_size"] == 201_088
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    generation = json.loads((expanded / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [200_002, 199_999, 200_012]


def in_transformers(expanded: Path) -> torch.nn.Module:
    """Returns the checkpoint in transformers' own model, in float32.

    Its loader for MXFP4 wants further packages, so its own function unpacks the experts here.
    """
    config = json.loads((expanded / "config.json").read_text())
    del config["quantization_config"], config["torch_dtype"]
    model: torch.nn.Module = GptOssForCausalLM(GptOssConfig(**config))
    model.train(False)
    weights: dict[str, torch.Tensor] = {}
    packed = load_file(expanded / "model.safetensors")
    for name, tensor in packed.items():
        if name.endswith("_blocks"):
            scales = packed[name.removesuffix("blocks") + "scales"]
            unpacked = convert_moe_packed_tensors(tensor, scales, dtype=torch.float32)
            weights[name.removesuffix("_blocks")] = unpacked
        elif not name.endswith("_scales"):
            weights[name] = tensor.float()
    model.load_state_dict(weights, strict=True)
    return model


def training_logits(network: Network, rows: torch.Tensor) -> torch.Tensor:
    """Returns [T, rows + 1]: the training network's logits, without the count of other ids."""
    length = len(rows)
    visible = torch.ones(1, length, length, dtype=torch.bool).tril()
    hidden = network(rows[None], torch.arange(length)[None], visible)[0]
    logits: torch.Tensor = network.lm_head(hidden)
    return logits


def test_transformers_agrees_with_the_training_network(
    expanded: Path, checkpoint: Compact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float32 products in place of the training's bfloat16 ones, on twice the window."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    rows = torch.randint(len(checkpoint.ids), (300,), generator=torch.Generator().manual_seed(4))
    ids = torch.from_numpy(checkpoint.ids.astype(np.int64))
    with torch.inference_mode():
        ours = training_logits(network_of(checkpoint), rows)
        theirs = in_transformers(expanded)(ids[rows][None]).logits[0]
    torch.testing.assert_close(theirs[:, ids], ours[:, :-1], rtol=0, atol=2e-3)
    unused = int(np.setdiff1d(np.arange(201_088), checkpoint.ids)[0])
    torch.testing.assert_close(theirs[:, unused], ours[:, -1], rtol=0, atol=2e-3)


def test_an_occupied_directory_is_left_alone(compact_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        expand(compact_path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "mine").read_text() == "mine"


def test_a_broken_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"broken")
    with pytest.raises(CompactError):
        expand(tmp_path / "broken", tmp_path / "room" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_expansion_needs_no_torch() -> None:
    code = (
        "import sys; import model_assets.development.expand; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
