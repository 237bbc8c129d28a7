"""What a GPT-OSS checkpoint holds: every tensor's name, dtype and shape, from the architecture.

Hugging Face's layout, as published: the experts' matrices are MXFP4 (`_blocks`: 16 bytes for 32
weights along the input, `_scales`: one E8M0 byte for them), all else is bfloat16. Rows of
`gate_up_proj` are gate and up in turn.
"""

from __future__ import annotations

from engine_build.weights.tensor_file import Spec
from model_assets.development.shape import Shape
from serving.boundary.engine import Architecture

MXFP4_BLOCK = 32
MXFP4_BLOCK_BYTES = 16
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_local_experts",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
"""What decides which tensors there are, in config.json's names."""


Sizes = Architecture | Shape
"""An engine's architecture, or a checkpoint's: both have the `FIELDS`."""


def checkpoint(sizes: Sizes) -> dict[str, Spec]:
    """Returns all tensors by name, in the order of the published index.

    Layers come sorted as text (0, 1, 10, 11, ...), then the vocabulary tables.
    """
    tensors: dict[str, Spec] = {}
    for index in sorted(range(sizes.num_hidden_layers), key=str):
        prefix = f"model.layers.{index}."
        tensors |= {prefix + name: spec for name, spec in layer(sizes).items()}
    tables = _bf16(sizes.vocab_size, sizes.hidden_size)
    return tensors | {EMBEDDING: tables, FINAL_NORM: _bf16(sizes.hidden_size), HEAD: tables}


def layer(sizes: Sizes) -> dict[str, Spec]:
    """Returns one layer's tensors, by what follows `model.layers.N.`."""
    hidden, experts = sizes.hidden_size, sizes.num_local_experts
    query = sizes.num_attention_heads * sizes.head_dim
    key_value = sizes.num_key_value_heads * sizes.head_dim
    return {
        "input_layernorm.weight": _bf16(hidden),
        "self_attn.o_proj.bias": _bf16(hidden),
        "self_attn.o_proj.weight": _bf16(hidden, query),
        "self_attn.q_proj.bias": _bf16(query),
        "self_attn.k_proj.bias": _bf16(key_value),
        "self_attn.v_proj.bias": _bf16(key_value),
        "self_attn.q_proj.weight": _bf16(query, hidden),
        "self_attn.k_proj.weight": _bf16(key_value, hidden),
        "self_attn.v_proj.weight": _bf16(key_value, hidden),
        "self_attn.sinks": _bf16(sizes.num_attention_heads),
        "mlp.router.bias": _bf16(experts),
        "mlp.router.weight": _bf16(experts, hidden),
        **_matrix("gate_up_proj", experts, 2 * sizes.intermediate_size, hidden),
        **_matrix("down_proj", experts, hidden, sizes.intermediate_size),
        "post_attention_layernorm.weight": _bf16(hidden),
    }


def _matrix(name: str, experts: int, rows: int, columns: int) -> dict[str, Spec]:
    blocks = (experts, rows, columns // MXFP4_BLOCK)
    return {
        f"mlp.experts.{name}_bias": _bf16(experts, rows),
        f"mlp.experts.{name}_blocks": Spec("U8", (*blocks, MXFP4_BLOCK_BYTES)),
        f"mlp.experts.{name}_scales": Spec("U8", blocks),
    }


def _bf16(*shape: int) -> Spec:
    return Spec("BF16", shape)
