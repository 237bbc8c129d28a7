"""The numbers of the development network, in the names of Hugging Face's config.json.

They are GPT-OSS's own where a number is part of the architecture (window, rope, limits, vocabulary)
and small where it is a size.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and constants of one GPT-OSS network."""

    num_hidden_layers: int = 4
    hidden_size: int = 128
    intermediate_size: int = 64
    num_local_experts: int = 8
    num_experts_per_tok: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    sliding_window: int = 128
    vocab_size: int = 201088
    max_position_embeddings: int = 131072
    initial_context_length: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    rope_factor: float = 32.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    swiglu_limit: float = 7.0

    def layer_types(self) -> list[str]:
        """Returns the attention kind of every layer: even ones slide, odd ones see everything."""
        kinds = ("sliding_attention", "full_attention")
        return [kinds[layer % 2] for layer in range(self.num_hidden_layers)]


def config(shape: Shape) -> dict[str, Any]:
    """Returns the content of config.json as Hugging Face's GPT-OSS code reads it."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": shape.num_experts_per_tok,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": shape.initial_context_length,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_types": shape.layer_types(),
        "max_position_embeddings": shape.max_position_embeddings,
        "num_attention_heads": shape.num_attention_heads,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "num_local_experts": shape.num_local_experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": shape.rope_beta_fast,
            "beta_slow": shape.rope_beta_slow,
            "factor": shape.rope_factor,
            "original_max_position_embeddings": shape.initial_context_length,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.9,
        "sliding_window": shape.sliding_window,
        "swiglu_limit": shape.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }
