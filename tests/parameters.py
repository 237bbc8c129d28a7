"""Counts of weights and bytes, as they follow from an architecture alone."""

from __future__ import annotations

from model_assets.development.shape import Shape

BFLOAT16_BYTES = 2
MXFP4_BLOCK = 32
MXFP4_BLOCK_BYTES = 17


def expert_parameters(shape: Shape) -> int:
    """Returns the number of weights in the experts' matrices, which are stored as MXFP4."""
    one = 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * shape.num_local_experts * one


def other_parameters(shape: Shape) -> int:
    """Returns the number of all other weights, stored as bfloat16."""
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    query = shape.num_attention_heads * shape.head_dim
    key_value = shape.num_key_value_heads * shape.head_dim
    projections = (hidden + 1) * (query + 2 * key_value) + (query + 1) * hidden
    attention = projections + shape.num_attention_heads
    biases = experts * (2 * inner + hidden)
    router = (hidden + 1) * experts
    layer = attention + biases + router + 2 * hidden
    return shape.num_hidden_layers * layer + hidden + 2 * shape.vocab_size * hidden


def parameters(shape: Shape) -> int:
    """Returns the number of all weights."""
    return expert_parameters(shape) + other_parameters(shape)


def active_parameters(shape: Shape) -> int:
    """Returns the number of weights that one token uses, the input table left out.

    This is how the model card of GPT-OSS counts: the chosen experts only, the LM head included.
    """
    share = shape.num_experts_per_tok / shape.num_local_experts
    idle_biases = shape.num_hidden_layers * (
        (shape.num_local_experts - shape.num_experts_per_tok)
        * (2 * shape.intermediate_size + shape.hidden_size)
    )
    table = shape.vocab_size * shape.hidden_size
    return int(expert_parameters(shape) * share) + other_parameters(shape) - idle_biases - table


def tensor_bytes(shape: Shape) -> int:
    """Returns the bytes of all tensors in a checkpoint, the files' headers left out."""
    experts = expert_parameters(shape) // MXFP4_BLOCK * MXFP4_BLOCK_BYTES
    return experts + other_parameters(shape) * BFLOAT16_BYTES
