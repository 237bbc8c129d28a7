"""What a GPT-OSS model weighs on one rank, in bytes, and what its KV cache takes.

The parts and their shapes are those of the checkpoint in Hugging Face's layout; summed over one
rank they are its tensors to the byte (65.25 GB for gpt-oss-120b). Tensor parallelism cuts
attention and the two vocabulary tables, expert parallelism the experts, what is left of the tensor
ranks the experts' inner dimension; norms and routers are on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.boundary.engine import Architecture, Mesh

BF16_BYTES = 2
MXFP4_BYTES = 17 / 32
"""A weight: 16 bytes of values and one of scale for 32 weights."""

_KV_BYTES = {"auto": 2, "bf16": 2, "bfloat16": 2, "float16": 2, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on one rank."""

    attention: int
    """Projections, biases and sinks, with the layer's norms and router."""
    experts: int
    embeddings: int
    """The input table and the LM head."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.attention + self.experts + self.embeddings


def weights(shape: Architecture, mesh: Mesh) -> Weights:
    """Returns the weights of the fullest rank."""
    ranks = mesh.tensor_parallel
    hidden, head = shape.hidden_size, shape.head_dim
    query = -(-shape.num_attention_heads // ranks) * head
    key_value = kv_heads(shape, mesh) * head
    attention = (hidden + 1) * (query + 2 * key_value) + query * hidden + hidden
    replicated = 2 * hidden + (hidden + 1) * shape.num_local_experts
    layer = attention + -(-shape.num_attention_heads // ranks) + replicated
    vocabulary = -(-shape.vocab_size // ranks) * hidden
    return Weights(
        attention=BF16_BYTES * (shape.num_hidden_layers * layer + hidden),
        experts=shape.num_hidden_layers * _experts(shape, mesh),
        embeddings=BF16_BYTES * 2 * vocabulary,
    )


def _experts(shape: Architecture, mesh: Mesh) -> int:
    """Returns the bytes of one layer's experts on one rank."""
    count = -(-shape.num_local_experts // mesh.expert_parallel)
    inner = -(-shape.intermediate_size // (mesh.tensor_parallel // mesh.expert_parallel))
    matrices = 3 * inner * shape.hidden_size * MXFP4_BYTES
    biases = (2 * inner + shape.hidden_size) * BF16_BYTES
    return count * round(matrices + biases)


def kv_heads(shape: Architecture, mesh: Mesh) -> int:
    """Returns the KV heads of one rank: past one a rank, heads are repeated."""
    return max(1, -(-shape.num_key_value_heads // mesh.tensor_parallel))


def sliding_layers(shape: Architecture) -> int:
    """Returns how many layers see only the window: the even ones, beginning with the first."""
    return -(-shape.num_hidden_layers // 2)


def kv_token_bytes(shape: Architecture, mesh: Mesh, kv_cache: str) -> int:
    """Returns the bytes of one token in one layer's cache on one rank.

    Raises KeyError for a number format that is not known.
    """
    return 2 * kv_heads(shape, mesh) * shape.head_dim * _KV_BYTES[kv_cache]


def sequence_bytes(
    shape: Architecture,
    mesh: Mesh,
    kv_cache: str,
    *,
    tokens: int,
    block_tokens: int,
    windowed: bool,
) -> int:
    """Returns what a sequence of `tokens` holds of one rank's cache.

    `windowed`: sliding layers give blocks back and hold their window, and the block that it ends
    in. Otherwise they hold everything, as in a cache of one pool.
    """
    blocks = -(-tokens // block_tokens)
    sliding = sliding_layers(shape)
    window_blocks = min(blocks, -(-shape.sliding_window // block_tokens) + 1)
    held = (shape.num_hidden_layers - sliding) * blocks
    held += sliding * (window_blocks if windowed else blocks)
    return held * block_tokens * kv_token_bytes(shape, mesh, kv_cache)


def gb(size_bytes: int) -> str:
    """Returns a size in words."""
    return f"{size_bytes / 1e9:.2f} GB"
