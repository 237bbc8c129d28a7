"""Random GPT-OSS checkpoints in Hugging Face's layout, the same bytes for the same shape and seed.

What is measured does not depend on what the weights say, so nothing has to be downloaded. Every
weight is scaled by the width that it sums over, and the LM head so that logits spread as a trained
model's do: greedy tokens are then far enough apart to be compared between engines.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from engine_build.weights.quantise import quantise

# Root mean square of the sixteen E2M1 values; what it takes to scale random codes to a variance.
E2M1_RMS = 2.92
# Exponent that the scale byte 0 stands for (OCP Microscaling Formats 1.0, E8M0).
E8M0_BIAS = 127
MXFP4_BLOCK = 32
LOGIT_SPREAD = 4.0


@dataclass(frozen=True, slots=True)
class CheckpointShape:
    """The numbers of one checkpoint. `experts` says how their weights are stored."""

    name: str
    hidden_size: int
    num_layers: int
    num_experts: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int = 201_088
    head_dim: int = 64
    experts_per_token: int = 4
    sliding_window: int = 128
    max_positions: int = 131_072
    experts: Literal["bf16", "mxfp4"] = "bf16"
    seed: int = 0

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's two matrices as stored."""
        weights = 3 * self.hidden_size * self.intermediate_size
        if self.experts == "bf16":
            return 2 * weights
        return weights // 2 + weights // MXFP4_BLOCK

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's four projections."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.hidden_size * self.vocab_size


SMALL = CheckpointShape("small", 256, 4, 8, 256, 8, 2)
"""What engines are compared on: the body is small and the vocabulary whole."""

TWENTY_BILLION = CheckpointShape("20b", 2880, 24, 32, 2880, 64, 8, experts="mxfp4")
"""The shape of openai/gpt-oss-20b."""

TINY = CheckpointShape("tiny", 64, 2, 4, 64, 4, 2, vocab_size=512)
"""Enough to run the same code in a test."""


def mxfp4(shape: CheckpointShape) -> CheckpointShape:
    """Returns the same shape with its experts stored as MXFP4."""
    return replace(shape, experts="mxfp4")


def ensure(shape: CheckpointShape, root: Path) -> Path:
    """Returns the directory of the checkpoint, written under `root` first if it is not there.

    A directory that exists is whole: it is written beside its place and then moved there.
    """
    key = hashlib.sha256(json.dumps(asdict(shape), sort_keys=True).encode()).hexdigest()[:12]
    directory = root / f"{shape.name}-{shape.experts}-{key}"
    if directory.is_dir():
        return directory
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(shape, partial)
    partial.rename(directory)
    return directory


def int8(checkpoint: Path) -> Path:
    """Returns the directory of what the engine build makes of a checkpoint in INT8, beside it.

    What is there already is kept.
    """
    target = checkpoint.with_name(checkpoint.name + "-int8")
    quantise(checkpoint, target, "int8", checkpoint.name, workers=1)
    return target


def write(shape: CheckpointShape, directory: Path) -> None:
    """Writes config.json, one safetensors file a layer and the index of them."""
    (directory / "config.json").write_text(json.dumps(_config(shape), indent=2))
    generator = torch.Generator().manual_seed(shape.seed)
    weight_map: dict[str, str] = {}
    size_bytes = 0
    for index, tensors in enumerate(_parts(shape, generator)):
        file = f"model-{index:05d}.safetensors"
        save_file(tensors, str(directory / file), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    index_file = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=2))


def _parts(shape: CheckpointShape, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """Yields what goes into one file at a time: memory holds a layer, not the model."""
    yield _outer(shape, generator)
    for index in range(shape.num_layers):
        yield _layer(shape, index, generator)


def _outer(shape: CheckpointShape, generator: torch.Generator) -> dict[str, torch.Tensor]:
    width = shape.hidden_size
    return {
        "model.embed_tokens.weight": _normal(generator, 1.0, shape.vocab_size, width),
        "model.norm.weight": 1.0 + _normal(generator, 0.1, width),
        "lm_head.weight": _normal(generator, LOGIT_SPREAD * width**-0.5, shape.vocab_size, width),
    }


def _layer(
    shape: CheckpointShape, index: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    width, prefix = shape.hidden_size, f"model.layers.{index}."
    heads = {"q": shape.num_heads, "k": shape.num_kv_heads, "v": shape.num_kv_heads}
    tensors = {
        "input_layernorm.weight": 1.0 + _normal(generator, 0.1, width),
        "post_attention_layernorm.weight": 1.0 + _normal(generator, 0.1, width),
        "self_attn.sinks": _normal(generator, 1.0, shape.num_heads),
        "mlp.router.weight": _normal(generator, width**-0.5, shape.num_experts, width),
        "mlp.router.bias": _normal(generator, 0.1, shape.num_experts),
        **_experts(shape, generator),
    }
    for name, count in heads.items():
        rows = count * shape.head_dim
        tensors[f"self_attn.{name}_proj.weight"] = _normal(generator, width**-0.5, rows, width)
        tensors[f"self_attn.{name}_proj.bias"] = _normal(generator, 0.1, rows)
    joined = shape.num_heads * shape.head_dim
    tensors["self_attn.o_proj.weight"] = _normal(generator, joined**-0.5, width, joined)
    tensors["self_attn.o_proj.bias"] = _normal(generator, 0.1, width)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _experts(shape: CheckpointShape, generator: torch.Generator) -> dict[str, torch.Tensor]:
    width, inner, count = shape.hidden_size, shape.intermediate_size, shape.num_experts
    tensors = {
        "mlp.experts.gate_up_proj_bias": _normal(generator, 0.1, count, 2 * inner),
        "mlp.experts.down_proj_bias": _normal(generator, 0.1, count, width),
    }
    for name, rows, columns in (("gate_up_proj", 2 * inner, width), ("down_proj", width, inner)):
        if shape.experts == "bf16":
            plain = _normal(generator, columns**-0.5, count, columns, rows)
            tensors[f"mlp.experts.{name}"] = plain
        else:
            blocks, scales = _codes(generator, count, rows, columns)
            tensors[f"mlp.experts.{name}_blocks"] = blocks
            tensors[f"mlp.experts.{name}_scales"] = scales
    return tensors


def _normal(generator: torch.Generator, deviation: float, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=generator).mul_(deviation).bfloat16()


def _codes(
    generator: torch.Generator, count: int, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random MXFP4 blocks and the scales that give them variance 1 / columns."""
    size = (count, rows, columns // MXFP4_BLOCK)
    blocks = torch.randint(0, 256, (*size, 16), dtype=torch.uint8, generator=generator)
    exponent = int(torch.log2(torch.tensor(columns**-0.5 / E2M1_RMS)).round())
    return blocks, torch.full(size, E8M0_BIAS + exponent, dtype=torch.uint8)


def _config(shape: CheckpointShape) -> dict[str, object]:
    """Returns config.json, in the words of the published one."""
    layers = range(shape.num_layers)
    config: dict[str, object] = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "num_local_experts": shape.num_experts,
        "num_experts_per_tok": shape.experts_per_token,
        "experts_per_token": shape.experts_per_token,
        "sliding_window": shape.sliding_window,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in layers],
        "max_position_embeddings": shape.max_positions,
        "initial_context_length": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "hidden_act": "silu",
        "swiglu_limit": 7.0,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "eos_token_id": 200_002 if shape.vocab_size > 200_002 else shape.vocab_size - 1,
        "pad_token_id": 199_999 if shape.vocab_size > 199_999 else shape.vocab_size - 2,
        "use_cache": True,
    }
    if shape.experts == "mxfp4":
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    return config
